"""Checkpoints that are plain pickles of NumPy arrays (detectron2's and its projects'), read without running anything of theirs.

A pickle may call whatever it names.  Here it can name the few things that arrays are stored by, and each of these is replaced by
something of ours that only looks at what it is given; every other name ends the reading.
"""

from __future__ import annotations

import math
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

TYPES = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "b1"}


class _Type:
    """numpy.dtype of plain numbers."""

    def __init__(self, code: str, *_: Any) -> None:
        if code not in TYPES:
            raise pickle.UnpicklingError(f"an array of type {code!r:.40}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])

    def read(self, data: bytes | str, shape: tuple[int, ...], fortran: bool) -> torch.Tensor:
        raw = data.encode("latin1") if isinstance(data, str) else bytes(data)
        if len(raw) != math.prod(shape) * self.dtype.itemsize:
            raise pickle.UnpicklingError(f"{len(raw)} bytes for an array of shape {shape!r:.40}")
        array = np.frombuffer(raw, self.dtype).reshape(shape, order="F" if fortran else "C")
        return torch.from_numpy(array.astype(self.dtype.newbyteorder("="), order="C"))


class _Array:
    """numpy.ndarray: empty, until it is told what it holds."""

    tensor: torch.Tensor

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, fortran, data = state
        self.tensor = kind.read(data, shape, fortran)


def _reconstruct(kind: Any, *_: Any) -> _Array:
    if kind is not _Array:
        raise pickle.UnpicklingError("a subclass of ndarray")
    return _Array()


def _from_buffer(data: bytes, kind: _Type, shape: tuple[int, ...], order: str) -> _Array:
    array = _Array()
    array.tensor = kind.read(data, shape, order == "F")
    return array


def _scalar(kind: _Type, data: bytes | str) -> torch.Tensor:
    return kind.read(data, (), False)


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("an encoding of bytes that is not latin1")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


INSTEAD: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": OrderedDict,
    "_codecs.encode": _encode,  # bytes, in the earliest protocols
    **{f"{module}.bytes": _no_bytes for module in ("builtins", "__builtin__")},  # and empty ones there
    "numpy.ndarray": _Array,
    "numpy.dtype": _Type,
    **{f"numpy.{core}.multiarray._reconstruct": _reconstruct for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": _from_buffer for core in ("core", "_core")},
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        found = INSTEAD.get(f"{module}.{name}")
        if found is None:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return found


def read_numpy_pickle(path: Path) -> Any:
    """What such a file holds, arrays as tensors, through mappings and lists.

    Raises pickle.UnpicklingError for a file that names anything else or is no whole pickle.
    """
    with path.open("rb") as file:
        try:
            loaded = _Reader(file).load()
        except pickle.UnpicklingError:
            raise
        except Exception as error:  # whatever a stranger's bytes break
            raise pickle.UnpicklingError(f"{type(error).__name__}: {error}") from None
    return _tensors(loaded)


def _tensors(value: Any) -> Any:
    if isinstance(value, _Array):
        return value.tensor
    if isinstance(value, dict):
        return {key: _tensors(inner) for key, inner in value.items()}
    return [_tensors(inner) for inner in value] if isinstance(value, list | tuple) else value
