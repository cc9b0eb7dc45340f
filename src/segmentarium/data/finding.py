"""Which files of a folder are pictures: by their endings where these are known, else by how they begin.  Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from pathlib import Path

from segmentarium.data.image_io import IMAGE_SUFFIXES
from segmentarium.data.picture_head import TIFF, boxed_picture

# what lies beside pictures and begins in any way: not worth a look
OTHER_SUFFIXES = frozenset({
    ".txt", ".csv", ".tsv", ".json", ".xml", ".yaml", ".yml", ".md", ".html", ".py", ".ipynb", ".npy", ".npz", ".zip", ".gz",
    ".tar", ".pt", ".pth", ".ckpt", ".safetensors", ".onnx", ".pdf",
})  # fmt: skip
_BEGINNINGS = (
    b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", *TIFF, b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51",
)  # fmt: skip
# of Matroska and WebM; MPEG's streams; H.264 and H.265; Flash, Windows Media and its recordings, RealMedia; YUV4MPEG, IVF, NUT;
# MXF; DV
_CLIPS = (
    b"\x1a\x45\xdf\xa3", b"\0\0\x01\xba", b"\0\0\x01\xb3", b"\0\0\x01\xb0",
    b"\0\0\0\x01\x67", b"\0\0\0\x01\x27", b"\0\0\0\x01\x09", b"\0\0\0\x01\x40\x01", b"\0\0\0\x01\x46\x01",
    b"FLV\x01", b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", b"\xb7\xd8\x00\x20\x37\x49\xda\x11", b".RMF\0",
    b"YUV4MPEG2 ", b"DKIF\0\0", b"nut/multimedia container\0", b"\x06\x0e\x2b\x34\x02\x05\x01\x01\x0d\x01\x02",
    b"\x1f\x07\0\x3f", b"\x1f\x07\0\xbf",
)  # fmt: skip
# Ogg holds sound mostly: how its streams of pictures begin
_IN_OGG = (b"\x80theora", b"OVP80", b"BBCD\0", b"\x01video\0")
_HEAD = 1024  # bytes; a transport stream shows itself by every 188th, 192nd or 204th


def files_below(folder: Path, suffixes: Collection[str], also: Callable[[Path], bool] | None = None) -> list[Path]:
    """The files at any depth that have one of the endings (lower case, with the dot), sorted; links to folders are followed.

    Hidden files and folders (macOS leaves "._photo.jpg", Jupyter ".ipynb_checkpoints") are passed over.

    also   whether a file of another ending is wanted, too
    """
    found, seen = [], set()
    for place, inner, names in os.walk(folder, followlinks=True):
        inner[:] = [name for name in inner if not name.startswith(".")]
        if (real := os.path.realpath(place)) in seen:  # a link to a folder above
            inner.clear()
            continue
        seen.add(real)
        paths = [Path(place, name) for name in names if not name.startswith(".")]
        found += [path for path in paths if path.suffix.lower() in suffixes or (also is not None and also(path))]
    return sorted(found)


def pictures_below(folder: Path, more: Collection[str] = ()) -> list[Path]:
    """The pictures at any depth, whatever their endings, as `files_below` finds them; and what has one of `more` endings."""
    return files_below(folder, {*IMAGE_SUFFIXES, *more}, begins_as_picture)


def name_below(path: Path, folder: Path) -> str:
    """The path of a file below a folder, without its ending."""
    return path.relative_to(folder).with_suffix("").as_posix()


def pictures_by_name(
    folder: Path, more: Collection[str] = (), name: Callable[[Path, Path], str] = name_below
) -> dict[str, Path]:
    """Name -> picture, of `pictures_below`, in their order.

    name   what a path in the folder is called

    Raises ValueError where two have one name, as a.jpg and a.png have: labels found by it would be of both.
    """
    found: dict[str, Path] = {}
    for path in pictures_below(folder, more):
        key = name(path, folder)
        if key in found:
            raise ValueError(f"{found[key]} and {path} have the same name; rename or remove one of them")
        found[key] = path
    return found


def begins_as_picture(path: Path) -> bool:
    """Whether a file without a picture's ending is one."""
    return path.suffix.lower() not in OTHER_SUFFIXES and is_picture(head_of(path))


def is_picture(head: bytes) -> bool:
    """Whether a file that begins so is a still picture of a kind that Pillow reads."""
    if head.startswith(_BEGINNINGS):
        return True
    if head[:4] == b"RIFF":
        return head[8:12] == b"WEBP"
    if boxed_picture(head):
        return True
    if head[:2] == b"BM":  # and the length of the second head, of which there are few
        return len(head) > 18 and int.from_bytes(head[14:18], "little") in (12, 40, 52, 56, 64, 108, 124)
    return head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace() and len(head) > 2


def is_clip(head: bytes) -> bool:
    """Whether a file that begins so is a clip of a kind that FFmpeg reads."""
    if head[4:8] == b"ftyp":
        return not is_picture(head)
    if head[4:8] in (b"moov", b"mdat") or (head[4:8] in (b"wide", b"free", b"skip") and head[:2] == b"\0\0"):
        return True  # QuickTime's of old; text has no two zeros in front
    if head[:4] == b"RIFF":
        return head[8:12] == b"AVI "
    if head[:4] == b"OggS":
        return any(one in head for one in _IN_OGG)
    return head.startswith(_CLIPS) or packet_length(head) > 0


def packet_length(head: bytes) -> int:
    """188, 192 or 204 where a file that begins so is a transport stream, of which cameras' have four bytes before each packet; 0
    where it is none."""
    for length, offset in ((188, 0), (192, 4), (204, 0)):
        marks = head[offset::length][:5]
        if len(marks) > 2 and set(marks) == {0x47}:
            return length
    return 0


def head_of(path: Path) -> bytes:
    """How a file begins; nothing where it cannot be opened, and of pipes, which would be waited for."""
    if not path.is_file():
        return b""
    try:
        with path.open("rb") as file:
            return file.read(_HEAD)
    except OSError:
        return b""
