"""What an ONNX file would ask of its runtime, read without one: files outside of it, and constants that fill the memory.

A few bytes may name a tensor of a million million elements (`ConstantOfShape`, `Expand`, `Tile`, `Range`), which a runtime makes
when it simplifies the network.  The file is a protocol buffer, of which three kinds of message are of interest here.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LARGEST = 2**28  # elements of one constant, and of what is made of constants: a gigabyte of float32
DEEPEST = 16  # subgraphs in subgraphs
_MAKERS = frozenset({"ConstantOfShape", "Expand", "Tile", "Range", "OneHot", "EyeLike"})


class OnnxError(ValueError):
    """A network that must not be given to a runtime."""


def check_onnx(path: Path) -> None:
    """Raises OnnxError for a file that is none, that names files beside it, or whose constants are unreasonably large."""
    with path.open("rb") as file:
        try:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:
            raise OnnxError(f"{path} is an empty file (0 bytes)") from None
    try:
        found = _check_model(memoryview(mapped))
    except OnnxError as error:
        raise OnnxError(f"{path} is refused: {error}") from None
    except (IndexError, ValueError, struct.error):
        raise OnnxError(f"{path} is no ONNX network: it ends early or is damaged") from None
    if not found:
        raise OnnxError(f"{path} is no ONNX network: there is no graph in it")


def _check_model(model: memoryview) -> bool:
    """Whether there is a graph in it."""
    found = False
    for field, value in _fields(model):
        if field == 7 and isinstance(value, memoryview):
            found = True
            _check_graph(value, DEEPEST)
        elif field == 25 and isinstance(value, memoryview):  # a function, whose nodes stand as those of a graph
            _check_graph(value, DEEPEST, nodes=7)
    return found


def _check_graph(graph: memoryview, depth: int, nodes: int = 1) -> None:
    if not depth:
        raise OnnxError(f"its graphs lie {DEEPEST} deep in each other")
    numbers: dict[str, list[int]] = {}  # constants of few whole numbers, such as shapes
    makers: list[tuple[str, list[str]]] = []
    for field, value in _fields(graph):
        if not isinstance(value, memoryview):
            continue
        if field == 5 and nodes == 1:
            name, few = _tensor(value)
            numbers[name] = few
        elif field == nodes:
            kind, inputs, outputs, constant = _node(value, depth)
            if kind in _MAKERS:
                makers.append((kind, inputs))
            if constant is not None and outputs:
                numbers[outputs[0]] = constant
    for kind, inputs in makers:
        for name in inputs:
            if (size := math.prod(abs(n) or 1 for n in numbers.get(name, []))) > LARGEST:
                raise OnnxError(f"{kind} would make a tensor of {size:,} elements, of constants")


def _node(node: memoryview, depth: int) -> tuple[str, list[str], list[str], list[int] | None]:
    kind, inputs, outputs, constant = "", [], [], None
    for field, value in _fields(node):
        if not isinstance(value, memoryview):
            continue
        if field == 1:
            inputs.append(_text(value))
        elif field == 2:
            outputs.append(_text(value))
        elif field == 4:
            kind = _text(value)
        elif field == 5:
            for part, inner in _fields(value):
                if part in (5, 10) and isinstance(inner, memoryview):  # a tensor, or several
                    constant = _tensor(inner)[1]
                elif part in (6, 11) and isinstance(inner, memoryview):  # a graph
                    _check_graph(inner, depth - 1)
                elif part == 8 and isinstance(inner, memoryview):
                    constant = list(_packed(inner))
    return kind, inputs, outputs, constant if kind == "Constant" else None


def _tensor(tensor: memoryview) -> tuple[str, list[int]]:
    """Its name, and its values where they are few whole numbers."""
    name, dims, few, kind, raw = "", [], [], 0, b""
    for field, value in _fields(tensor):
        if field == 1:
            dims += list(_packed(value)) if isinstance(value, memoryview) else [value]
        elif field == 2 and isinstance(value, int):
            kind = value
        elif field == 8 and isinstance(value, memoryview):
            name = _text(value)
        elif field == 7:
            few += list(_packed(value)) if isinstance(value, memoryview) else [value]
        elif field == 9 and isinstance(value, memoryview):
            raw = bytes(value) if len(value) <= 256 else b""
        elif field == 13 or (field == 14 and value == 1):
            raise OnnxError("its weights lie in another file; only networks in one file are run")
    size = math.prod(dims)
    if size > LARGEST or any(n < 0 for n in dims):
        raise OnnxError(f"a constant has the shape {dims[:8]}")
    if kind == 7 and raw:
        few = list(struct.unpack(f"<{len(raw) // 8}q", raw[: len(raw) // 8 * 8]))
    return name, few[:32]


def _fields(data: memoryview) -> Iterator[tuple[int, Any]]:
    """(number, int or bytes) of each field of a message."""
    place, end = 0, len(data)
    while place < end:
        key, place = _varint(data, place)
        kind = key & 7
        if kind == 0:
            value, place = _varint(data, place)
            yield key >> 3, value - 2**64 if value >= 2**63 else value
        elif kind == 2:
            length, place = _varint(data, place)
            if place + length > end:
                raise IndexError
            yield key >> 3, data[place : place + length]
            place += length
        elif kind in (1, 5):
            place += 8 if kind == 1 else 4
        else:
            raise IndexError


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
        shift += 7
        if shift > 63:
            raise IndexError


def _packed(data: memoryview) -> Iterator[int]:
    place = 0
    while place < len(data):
        value, place = _varint(data, place)
        yield value - 2**64 if value >= 2**63 else value


def _text(value: memoryview) -> str:
    return bytes(value).decode("utf-8", "replace")
