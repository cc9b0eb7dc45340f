"""Whether a clip's file ends before it says: containers tell their length in front, and decoders do not miss what is cut off.

A copy that was broken off plays up to where it ends, and looks like a shorter clip.  What each container says of itself is
compared with the file: the sizes of Matroska's, WebM's, AVI's and WebP's outer box and of MP4's boxes, the last mark of GIF and
PNG, whole packets of transport streams.
"""

from __future__ import annotations

import os
from typing import BinaryIO

from segmentarium.data.finding import packet_length

MOST_BOXES = 100_000


def missing_end(path: str | os.PathLike[str]) -> str | None:
    """What is missing at a file's end, in words; None: nothing that it would say.  OSError where it cannot be read."""
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        head = file.read(1024)
        declared: int | None = None
        if head[:4] == b"\x1a\x45\xdf\xa3":
            declared = _matroska(file)
        elif head[:4] == b"RIFF":
            declared = int.from_bytes(head[4:8], "little") + 8
            declared = declared if declared > 8 else None  # a recorder that was ended wrote none
        elif head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
            declared = _boxes(file, size)
        elif head[:4] == b"GIF8":
            return None if _tail(file, size).rstrip(b"\0").endswith(b";") else "its last mark is not there"
        elif head[:8] == b"\x89PNG\r\n\x1a\n":
            return None if b"IEND" in _tail(file, size) else "its last chunk is not there"
        elif packet := packet_length(head):
            return f"its last packet has {size % packet} of {packet} bytes" if size % packet else None
    if declared is not None and declared > size:
        return f"it has {size:,} of the {declared:,} bytes that it declares"
    return None


def _tail(file: BinaryIO, size: int) -> bytes:
    file.seek(max(0, size - 4096))
    return file.read()


def _boxes(file: BinaryIO, size: int) -> int | None:
    """Where the last of MP4's boxes ends."""
    place = 0
    for _ in range(MOST_BOXES):
        file.seek(place)
        head = file.read(16)
        if len(head) < 8:
            return place + 8 if head else place
        length = int.from_bytes(head[:4], "big")
        if length == 1 and len(head) == 16:
            length = int.from_bytes(head[8:], "big")
        if length == 0:  # up to the end
            return None
        if length < 8 or not head[4:8].isascii():
            return None  # what stands behind is no box
        place += length
        if place >= size:
            return place
    return None


def _matroska(file: BinaryIO) -> int | None:
    """Where the segment ends; None: a recorder did not say."""
    file.seek(4)
    length = _variable(file)
    if length is None:
        return None
    file.seek(length, 1)
    if file.read(4) != b"\x18\x53\x80\x67":
        return None
    length = _variable(file)
    return None if length is None else file.tell() + length


def _variable(file: BinaryIO) -> int | None:
    """A number of EBML; None where all its bits are set, which means unknown."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    more = 8 - first[0].bit_length()
    value = int.from_bytes(bytes([first[0] & ((1 << (7 - more)) - 1)]) + file.read(more), "big")
    return None if value == (1 << 7 * (more + 1)) - 1 else value
