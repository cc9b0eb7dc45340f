"""Weights in and out: our safetensors files with their header, the hub, and everyone else's checkpoints.

model = load("street")                      a name of the catalogue
model = load("model.safetensors")           our own file: it rebuilds its model
model = load("theirs.pth")                  a public implementation's checkpoint, recognised by its keys
save(model, "model.safetensors", dataset="camvid", metrics={"miou": 0.62})
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from segmentarium.lazy import lazy_names

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

_OF_TABLE = ("LoadError", "LoadReport", "adapt_input_channels")
# the catalogue is of use without PyTorch, which the rest imports
__getattr__ = lazy_names(__name__, dict.fromkeys(__all__, "store") | dict.fromkeys(_OF_TABLE, "table"))
