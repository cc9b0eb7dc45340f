"""Weights in and out: our safetensors files with their header, the hub, and everyone else's checkpoints.

model = load("street")                      a name of the catalogue
model = load("model.safetensors")           our own file: it rebuilds its model
model = load("theirs.pth")                  a public implementation's checkpoint, recognised by its keys
save(model, "model.safetensors", dataset="camvid", metrics={"miou": 0.62})
load_part(model, "backbone", "timm:resnet50")
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from segmentarium.lazy import lazy_names

if TYPE_CHECKING:
    from segmentarium.weights.fetch import FetchError, LicenceError
    from segmentarium.weights.inspection import Inspection, inspect_weights
    from segmentarium.weights.part import load_part
    from segmentarium.weights.published import Published, list_published
    from segmentarium.weights.reading import HEADER, CheckpointError, read_file
    from segmentarium.weights.source import FILE_NAME, locate
    from segmentarium.weights.store import (
        export_layout,
        from_pretrained,
        header_of,
        load,
        load_into,
        push_to_hub,
        save,
    )
    from segmentarium.weights.table import LoadError, LoadReport, adapt_input_channels

__all__ = [
    "FILE_NAME",
    "HEADER",
    "CheckpointError",
    "FetchError",
    "Inspection",
    "LicenceError",
    "LoadError",
    "LoadReport",
    "Published",
    "adapt_input_channels",
    "export_layout",
    "from_pretrained",
    "header_of",
    "inspect_weights",
    "list_published",
    "load",
    "load_into",
    "load_part",
    "locate",
    "push_to_hub",
    "read_file",
    "save",
]

_OF_READING = ("HEADER", "CheckpointError", "read_file")
_OF_TABLE = ("LoadError", "LoadReport", "adapt_input_channels")
# the catalogue is of use without PyTorch, which the rest imports
__getattr__ = lazy_names(
    __name__,
    dict.fromkeys(__all__, "store")
    | dict.fromkeys(_OF_READING, "reading")
    | dict.fromkeys(("FILE_NAME", "locate"), "source")
    | dict.fromkeys(_OF_TABLE, "table")
    | dict.fromkeys(("Published", "list_published"), "published")
    | dict.fromkeys(("FetchError", "LicenceError"), "fetch")
    | {"load_part": "part", "Inspection": "inspection", "inspect_weights": "inspection"},
)
