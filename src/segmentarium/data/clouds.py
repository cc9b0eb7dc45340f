"""Point clouds of files: .bin (KITTI), .pcd.bin (nuScenes), .npy, .npz, .pcd, .ply and .feather (Argoverse 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SUFFIXES = (".bin", ".npy", ".npz", ".pcd", ".ply", ".feather")
AXES = ("x", "y", "z")
# what .bin files hold, by their name: nothing in them says it
BARE = {".pcd.bin": ("x", "y", "z", "intensity", "ring"), ".bin": ("x", "y", "z", "intensity")}
PCD_TYPES = {"F4": "<f4", "F8": "<f8"} | {f"{k}{n}": f"<{k.lower()}{n}" for k in "UI" for n in (1, 2, 4, 8)}
PLY_TYPES = {
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4", "float": "f4", "double": "f8",
    "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4", "float32": "f4", "float64": "f8",
}  # fmt: skip


class PointReadError(ValueError):
    """A file is no point cloud, or not one that can be read."""


@dataclass(frozen=True)
class Points:
    """values (N, F) float32; fields: the names of the columns, of which the first are x, y, z."""

    values: np.ndarray
    fields: tuple[str, ...]

    def columns(self, wanted: Sequence[str]) -> np.ndarray:
        """(N, len(wanted)) float32; 0 for a field that is not there."""
        place = {name: i for i, name in enumerate(self.fields)}
        empty = np.zeros(len(self.values), np.float32)
        return np.stack([self.values[:, place[name]] if name in place else empty for name in wanted], 1)


def read_points(path: str | Path, fields: Sequence[str] | None = None) -> Points:
    """The points of a file, x, y, z first, in the file's own units: intensity of 0..1 or 0..255.

    fields   of a .bin or .npy file, which says none; None: by its name and width

    Raises PointReadError for a file that is none, that is cut off, or that has no x, y and z; FileNotFoundError; ImportError for
    .feather without pyarrow.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise PointReadError(f"{path} is no file of points by its ending; give one of {', '.join(SUFFIXES)}")
    try:
        if suffix in (".bin", ".npy"):
            return _bare(path, fields)
        table = {".npz": _npz, ".pcd": _pcd, ".ply": _ply, ".feather": _feather}[suffix](path)
    except PointReadError:
        raise
    except (ValueError, KeyError, OSError, IndexError, EOFError) as error:
        raise PointReadError(f"{path} cannot be read as points: {error}") from error
    missing = [axis for axis in AXES if axis not in table]
    if missing:
        raise PointReadError(f"{path} has {', '.join(table) or 'no fields'}, and no {', '.join(missing)}")
    names = (*AXES, *(name for name in table if name not in AXES))
    return Points(np.stack([np.asarray(table[name], np.float32) for name in names], 1), names)


def _named(width: int, fields: Sequence[str] | None) -> tuple[str, ...]:
    usual = ("x", "y", "z", "intensity", "ring", "time")
    names = tuple(fields) if fields is not None else usual[:width] if width <= len(usual) else ()
    return names or (*usual, *(f"value {i}" for i in range(len(usual), width)))


def _bare(path: Path, fields: Sequence[str] | None) -> Points:
    if path.suffix.lower() == ".npy":
        values = np.load(path, allow_pickle=False)
        if values.ndim != 2 or values.shape[1] < 3:
            raise PointReadError(
                f"{path} has shape {values.shape}; points are (N, 3 or more): x, y, z and further values"
            )
        names = _named(values.shape[1], fields)
    else:
        names = (
            tuple(fields) if fields is not None else next(v for k, v in BARE.items() if path.name.lower().endswith(k))
        )
        values = np.fromfile(path, "<f4")
        if values.size % len(names):
            raise PointReadError(
                f"{path} has {values.size} numbers, which are no rows of {len(names)} ({', '.join(names)}); say which fields it "
                "has, or it is cut off"
            )
        values = values.reshape(-1, len(names))
    if len(names) != values.shape[1]:
        raise PointReadError(
            f"{path} has {values.shape[1]} columns, and {len(names)} fields were given: {', '.join(names)}"
        )
    return Points(np.ascontiguousarray(values, np.float32), names)


def _npz(path: Path) -> dict[str, np.ndarray]:
    """points (N, F); or xyz (N, 3) with further columns (N,) beside; or x, y, z."""
    with np.load(path, allow_pickle=False) as arrays:
        given = dict(arrays)
    key = next((name for name in ("points", "xyz") if name in given), None)
    table: dict[str, np.ndarray] = {}
    if key is not None:
        values = given.pop(key)
        if values.ndim != 2 or values.shape[1] < 3:
            raise PointReadError(f"{path}: {key} has shape {values.shape}; give (N, 3 or more)")
        table = dict(zip(_named(values.shape[1], None), values.T, strict=True))
    count = len(table["x"]) if table else len(given.get("x", ()))
    return table | {name: v for name, v in given.items() if v.ndim == 1 and len(v) == count and v.dtype.kind in "fiub"}


def _feather(path: Path) -> dict[str, np.ndarray]:
    from segmentarium.data.tables import read_table

    return {name: column for name, column in read_table(path).items() if column.dtype.kind in "fiu"}


def _pcd(path: Path) -> dict[str, np.ndarray]:
    """ASCII, binary, and compressed, where each field's values lie together."""
    data = path.read_bytes()
    header: dict[str, list[str]] = {}
    place = 0
    while "DATA" not in header:
        end = data.find(b"\n", place)
        if end < 0:
            raise PointReadError(f"{path} has no line DATA, with which the header of a PCD ends")
        words = data[place:end].decode("ascii", "replace").split()
        place = end + 1
        if words and not words[0].startswith("#"):
            header[words[0].upper()] = words[1:]
    fields, count = header["FIELDS"], int(header["POINTS"][0])
    repeats = list(map(int, header.get("COUNT", ["1"] * len(fields))))
    kind = header["DATA"][0].lower()
    if kind == "ascii":
        rows = np.loadtxt(data[place:].decode("ascii").splitlines(), ndmin=2) if count else np.zeros((0, sum(repeats)))
        starts = np.cumsum([0, *repeats[:-1]])
        table = {name: rows[:, start] for name, start in zip(fields, starts, strict=True)}
    elif kind in ("binary", "binary_compressed"):
        types = [PCD_TYPES[t.upper() + s] for t, s in zip(header["TYPE"], header["SIZE"], strict=True)]
        row = np.dtype([(f"{i}", t, (n,)) for i, (t, n) in enumerate(zip(types, repeats, strict=True))])
        if kind == "binary":
            found = np.frombuffer(data, row, count, place)
            table = {name: found[f"{i}"][:, 0] for i, name in enumerate(fields)}
        else:
            packed, whole = map(int, np.frombuffer(data, "<u4", 2, place))
            unpacked, place = _lzf(data[place + 8 : place + 8 + packed], whole), 0
            table = {}
            for name, kind_of, repeat in zip(fields, types, repeats, strict=True):
                table[name] = np.frombuffer(unpacked, kind_of, count * repeat, place).reshape(count, repeat)[:, 0]
                place += table[name].itemsize * count * repeat
    else:
        raise PointReadError(f"{path} is a PCD of kind {kind!r}; save it as binary, binary_compressed or ascii")
    if len(table[fields[0]]) != count:
        raise PointReadError(f"{path} promises {count} points and has {len(table[fields[0]])}; it is cut off")
    return table


def _lzf(data: bytes, size: int) -> bytes:
    """What LibLZF packed: runs of bytes as they are, and copies of earlier ones, which may run into what they make."""
    made, place = bytearray(), 0
    while place < len(data):
        told = data[place]
        place += 1
        if told < 32:
            made += data[place : place + told + 1]
            place += told + 1
            continue
        length = (told >> 5) + 2
        if length == 9:
            length, place = length + data[place], place + 1
        start = len(made) - ((told & 31) << 8) - data[place] - 1
        place += 1
        if start < 0:
            raise ValueError("its compressed points refer to what is not there")
        while length:
            part = made[start : start + length]
            made += part
            start, length = start + len(part), length - len(part)
    if len(made) != size:
        raise ValueError(f"its points are {len(made)} bytes unpacked, and {size} were promised; it is cut off")
    return bytes(made)


def _ply(path: Path) -> dict[str, np.ndarray]:
    """The element "vertex" of an ASCII or binary file, which is its first."""
    data = path.read_bytes()
    end = data.find(b"end_header")
    if end < 0:
        raise PointReadError(f"{path} has no line end_header, with which the header of a PLY ends")
    lines = [line.split() for line in data[:end].decode("ascii", "replace").splitlines()]
    if lines[0] != ["ply"]:
        raise PointReadError(f"{path} does not begin as a PLY does")
    place = data.index(b"\n", end) + 1
    kind = next(words[1] for words in lines if words[:1] == ["format"])
    elements = [i for i, words in enumerate(lines) if words[:1] == ["element"]]
    first = lines[elements[0]]
    if first[1] != "vertex":
        raise PointReadError(f"{path} begins with the element {first[1]!r}; points are read where 'vertex' comes first")
    inner = lines[elements[0] + 1 : elements[1] if len(elements) > 1 else None]
    properties = [words for words in inner if words[:1] == ["property"]]
    if any(words[1] == "list" for words in properties):
        raise PointReadError(f"{path} has lists among its points' properties, which cannot be read")
    names, count = [words[2] for words in properties], int(first[2])
    if kind == "ascii":
        rows = (
            np.loadtxt(data[place:].decode("ascii").splitlines()[:count], ndmin=2)
            if count
            else np.zeros((0, len(names)))
        )
        return dict(zip(names, rows.T, strict=True))
    order = "<" if kind == "binary_little_endian" else ">"
    row = np.dtype([(f"{i}", order + PLY_TYPES[words[1]]) for i, words in enumerate(properties)])
    found = np.frombuffer(data, row, count, place)
    return {name: found[f"{i}"] for i, name in enumerate(names)}
