"""What a picture file asks of its decoder, looked at before the decoder is: the pixels of its header are not all that costs.

A JPEG of many scans goes through all its pixels once a scan, which a few bytes can ask for.  Text, colour profiles and EXIF
blocks of many small pieces are put together one after the other; a directory of tags may point to the same bytes a thousand
times; a tile may be larger than its picture.  Each of these is bounded here by far more than cameras and programs write.
"""

from __future__ import annotations

import contextlib
import io
import re
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

MOST_SCANS = 100  # a progressive JPEG has some ten
MOST_SEGMENTS = 4096  # of a JPEG before its first scan
MOST_FILL = 256  # bytes before a marker
MOST_TEXT = 2**20  # bytes of a GIF's comments
MOST_BLOCKS = 20_000  # of a GIF before its first frame
MOST_TILE = 2**26  # bytes of a TIFF tile, where the whole picture is smaller than it

# how a TIFF begins -> the order of its bytes, as of `struct`
TIFF = {b"II*\0": "<", b"MM\0*": ">", b"II+\0": "<", b"MM\0+": ">"}
_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_SUB_DIRECTORIES = (34665, 34853, 40965)  # EXIF, GPS, interoperability
_ORIENTATION = 0x0112
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_XMP_ORIENTATION = re.compile(rb"tiff:Orientation\s*(?:=\s*[\"']|>)\s*([1-8])")


# brands of ISO's base media format that are pictures, by Pillow's names of the formats; others are clips
_AVIF = (b"avif", b"avis")
_HEIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")
_EITHER = (b"mif1", b"msf1", b"mif2")  # what is coded how stands among the brands behind it


class HeadError(ValueError):
    """A file that asks for more than any picture needs; the message says of what, not the file's name."""


def boxed_picture(head: bytes) -> str:
    """ "AVIF" or "HEIF" where a file that begins so is such a picture; "": it is none."""
    brand = head[8:12]
    if head[4:8] != b"ftyp" or brand not in (*_AVIF, *_HEIF, *_EITHER):
        return ""
    end = min(len(head), int.from_bytes(head[:4], "big"))
    others = [head[place : place + 4] for place in range(16, end, 4)]
    return "AVIF" if brand in _AVIF or (brand in _EITHER and any(one in _AVIF for one in others)) else "HEIF"


def check_head(file: BinaryIO) -> None:
    """Raises HeadError for a JPEG, PNG, GIF or TIFF that would be unreasonably dear to decode; others pass."""
    size = file.seek(0, 2)
    file.seek(0)
    start = file.read(8)
    if start[:2] == b"\xff\xd8":
        _check_jpeg(file, size)
    elif start == b"\x89PNG\r\n\x1a\n":
        _check_png(file, size)
    elif start[:6] in (b"GIF87a", b"GIF89a"):
        _check_gif(file)
    elif start[:4] in TIFF:
        _check_tiff(file, size)


def _check_jpeg(file: BinaryIO, size: int) -> None:
    file.seek(2)
    exif: list[bytes] = []
    for _ in range(MOST_SEGMENTS):
        head = file.read(4)
        for _fill in range(MOST_FILL):
            if head[:2] != b"\xff\xff":  # a marker may be filled up
                break
            head = head[1:] + file.read(1)
        else:
            raise HeadError(f"a marker of it is filled up by more than {MOST_FILL} bytes")
        if len(head) < 4 or head[0] != 0xFF or head[1] == 0xDA:
            break  # the decoder says what is wrong with it
        length = max(0, int.from_bytes(head[2:], "big") - 2)
        if head[1] in (0xE1, 0xE2):
            block = file.read(length)
            if block[:6] == b"Exif\0\0":
                exif.append(block[6:])
            elif block[:4] == b"MPF\0":
                _check_block(block[4:])
        else:
            file.seek(length, 1)
    else:
        raise HeadError(f"it has more than {MOST_SEGMENTS:,} segments before its first scan")
    _check_block(b"".join(exif))
    first = file.tell() - 4
    file.seek(first)
    if sum(part.count(b"\xff\xda") for part in iter(lambda: file.read(2**20), b"")) < MOST_SCANS:
        return  # those of a film behind the picture, and of chance, are among them
    file.seek(max(0, first))
    data = file.read()
    scans = place = 0
    for _ in range(size // 4):
        found = _MARKER.search(data, place)
        if found is None or found[0] == b"\xff\xd9":
            return
        scans += found[0] == b"\xff\xda"
        if scans > MOST_SCANS:
            raise HeadError(f"it has more than {MOST_SCANS} scans, each of which goes through all its pixels")
        place = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")


def _check_png(file: BinaryIO, size: int) -> None:
    allowed = 1000 + size // 1024  # programs cut the pixels into pieces of 8 KB and more
    place = 8
    for _ in range(allowed):
        file.seek(place)
        head = file.read(8)
        if len(head) < 8 or head[4:] == b"IEND":
            return
        place += 12 + int.from_bytes(head[:4], "big")
    raise HeadError(f"it has more than {allowed:,} chunks")


def _check_gif(file: BinaryIO) -> None:
    file.seek(10)
    flags = file.read(3)
    if len(flags) == 3 and flags[0] & 0x80:
        file.seek(3 << ((flags[0] & 7) + 1), 1)
    text = blocks = 0
    while file.read(1) == b"!":
        comment = file.read(1) == b"\xfe"
        blocks += 1
        while (length := file.read(1)) not in (b"", b"\0"):
            file.seek(length[0], 1)
            blocks += 1
            text += length[0] * comment
            if text > MOST_TEXT or blocks > MOST_BLOCKS:
                break
        if text > MOST_TEXT or blocks > MOST_BLOCKS:
            raise HeadError(f"it has {text:,} bytes of comments in {blocks:,} blocks before its first frame")


def _check_tiff(file: BinaryIO, size: int) -> None:
    file.seek(0)
    head = file.read(16)
    order, big = TIFF[head[:4]], head[2:4] in (b"+\0", b"\0+")
    first = int.from_bytes(head[8:16] if big else head[4:8], "little" if order == "<" else "big")
    tags, following = _directory(file, first, order, big, size)
    others = [following, *(tags[tag] for tag in _SUB_DIRECTORIES if tag in tags)]
    for place in others:
        if 0 < place < size:
            _directory(file, place, order, big, size)
    tile = tags.get(322, 0) * tags.get(323, 0)
    depth = max(1, tags.get(277, 1)) * max(8, tags.get(258, 8)) // 8
    if tile * depth > max(MOST_TILE, 2 * tags.get(256, 0) * tags.get(257, 0) * depth):
        raise HeadError(
            f"its tiles of {tags.get(322)} x {tags.get(323)} pixels are larger than the picture of "
            f"{tags.get(256)} x {tags.get(257)}"
        )


def _check_block(block: bytes) -> None:
    """A directory of tags inside of another file: EXIF, or the table of a file with several pictures."""
    if block[:4] in TIFF:
        _check_tiff(io.BytesIO(block), len(block))


def _directory(file: BinaryIO, place: int, order: str, big: bool, size: int) -> tuple[dict[int, int], int]:
    """The first value of each tag of whole numbers, and where the next directory stands (0: nowhere)."""
    entry, inline = (20, 8) if big else (12, 4)
    file.seek(place)
    count = _number(file.read(8 if big else 2), order)
    data = file.read(min(count, 2**16) * entry)
    following = _number(file.read(8 if big else 4), order)
    tags: dict[int, int] = {}
    total = 0
    for start in range(0, len(data) - entry + 1, entry):
        tag, kind = struct.unpack_from(f"{order}HH", data, start)
        number = _number(data[start + 4 : start + entry - inline], order)
        value = data[start + entry - inline : start + entry]
        width = _TYPE_BYTES.get(kind, 1)
        if number * width > inline:
            total += min(number * width, size)
            if total > 2 * size + 2**16:
                raise HeadError(f"its tags name more than {total:,} bytes, and the file, or the block, has {size:,}")
            file.seek(_number(value, order))
            value = file.read(width)
        if kind in (1, 3, 4, 13, 16) and number:
            tags.setdefault(tag, _number(value[:width], order))
    return tags, following


def _number(data: bytes, order: str) -> int:
    return int.from_bytes(data, "little" if order == "<" else "big")


def orientation_of(info: Mapping[Any, Any]) -> int:
    """1 to 8, from the EXIF block or, failing that, the XMP block that Pillow found; 1 where neither says it, or is damaged."""
    exif, text = info.get("exif"), info.get("Raw profile type exif")
    if exif is None and isinstance(text, str):  # of ImageMagick: a word, a number, and the block in hexadecimal
        with contextlib.suppress(ValueError):
            exif = bytes.fromhex("".join(text.split()[2:]))
    if isinstance(exif, bytes):
        block = exif.removeprefix(b"Exif\0\0")
        if (order := TIFF.get(block[:4])) is not None:
            place = _number(block[4:8], order)
            count = _number(block[place : place + 2], order)
            for start in range(place + 2, min(place + 2 + 12 * count, len(block) - 11), 12):
                tag, kind = struct.unpack_from(f"{order}HH", block, start)
                if tag == _ORIENTATION:
                    value = _number(block[start + 8 : start + (10 if kind == 3 else 12)], order)
                    return value if 1 <= value <= 8 else 1
    xmp = info.get("xmp", info.get("XML:com.adobe.xmp"))
    if isinstance(xmp, str):
        xmp = xmp.encode("utf-8", "replace")
    found = _XMP_ORIENTATION.search(xmp) if isinstance(xmp, bytes) else None
    return int(found[1]) if found else 1
