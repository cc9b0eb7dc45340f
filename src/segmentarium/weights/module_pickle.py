"""Whole modules that a project pickled, such as DALL-E's dVAE: their tensors, without their classes.

PyTorch's restricted reader takes what is on its list and refuses all else.  The classes of such a module go on that list for the
time of reading, each as a husk that keeps attributes and does nothing; so nothing that the file names is imported or run.
Modules in files of PyTorch before 1.6, which name their source text too, are refused as before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

LAYERS = {
    "activation": ("ReLU",),
    "container": ("ModuleDict", "ModuleList", "Sequential"),
    "linear": ("Identity", "Linear"),
    "pooling": ("MaxPool2d",),
    "upsampling": ("Upsample",),
}
CLASSES = (
    *(f"dall_e.encoder.{name}" for name in ("Encoder", "EncoderBlock")),
    *(f"dall_e.decoder.{name}" for name in ("Decoder", "DecoderBlock")),
    "dall_e.utils.Conv2d",
    *(f"torch.nn.modules.{module}.{name}" for module, names in LAYERS.items() for name in names),
)


class Husk:
    """An object of a class that is not asked for: its attributes."""

    def __init__(self, *_: Any) -> None:
        """Whatever it is made with is let go."""

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise UnpicklingError(f"attributes in a {type(state).__name__}")
        self.__dict__.update(state)


def read_module(path: str | Path) -> dict[str, Tensor]:
    """The state dict of a pickled module of the classes known here.  pickle.UnpicklingError for a file that names others, or that
    holds no module."""
    with torch.serialization.safe_globals([(Husk, name) for name in CLASSES]):
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(loaded, Husk):
        raise UnpicklingError(f"it holds a {type(loaded).__name__}, no module")
    return dict(_tensors(loaded))


def _tensors(module: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers as `state_dict` names them."""
    said = vars(module) if isinstance(module, Husk) else {}
    for kind in ("_parameters", "_buffers", "_modules"):
        held = said.get(kind)
        for name, value in held.items() if isinstance(held, Mapping) else ():
            if isinstance(value, Tensor):
                yield f"{prefix}{name}", value.detach()
            elif kind == "_modules":
                yield from _tensors(value, f"{prefix}{name}.")
