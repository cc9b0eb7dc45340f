"""Weights in and out: our safetensors files with their header, the hub, and everyone else's checkpoints.

model = load("street")                      a name of the catalogue
model = load("model.safetensors")           our own file: it rebuilds its model
model = load("theirs.pth")                  a public implementation's checkpoint, recognised by its keys
save(model, "model.safetensors", dataset="camvid", metrics={"miou": 0.62})
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segmentarium.weights.store import (
        FILE_NAME,
        HEADER,
        CheckpointError,
        export_layout,
        from_pretrained,
        header_of,
        load,
        load_into,
        locate,
        push_to_hub,
        read_file,
        save,
    )
    from segmentarium.weights.table import LoadError, LoadReport, adapt_input_channels

_HOMES = {
    "store": (
        "FILE_NAME",
        "HEADER",
        "CheckpointError",
        "export_layout",
        "from_pretrained",
        "header_of",
        "load",
        "load_into",
        "locate",
        "push_to_hub",
        "read_file",
        "save",
    ),
    "table": ("LoadError", "LoadReport", "adapt_input_channels"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "FILE_NAME",
    "HEADER",
    "CheckpointError",
    "LoadError",
    "LoadReport",
    "adapt_input_channels",
    "export_layout",
    "from_pretrained",
    "header_of",
    "load",
    "load_into",
    "locate",
    "push_to_hub",
    "read_file",
    "save",
]


def __getattr__(name: str) -> Any:
    # the catalogue is of use without PyTorch, which the rest imports
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value
