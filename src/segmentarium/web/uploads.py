"""Requests read with suspicion: a bounded number of bytes, in bounded time, kept in memory, decoded only if harmless.

Names of uploaded files are never looked at, and no word of a request is ever taken for a path.
"""

from __future__ import annotations

import asyncio
import io
import re
import warnings
from collections.abc import AsyncGenerator
from typing import cast

import numpy as np
from PIL import Image, ImageColor, UnidentifiedImageError
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from segmentarium.data.image_io import read_image
from segmentarium.matting.backgrounds import BLUR, Background, Blur, Colour, Picture, Transparent
from segmentarium.web.limits import Limits, Refused

# Pillow knows formats that start other programs (EPS) or are rarely tested; uploads are of these.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
FILES, FIELDS, FIELD_BYTES = 2, 8, 4096


class _InMemory(MultiPartParser):
    """Starlette's parser, which never moves a file to the disk: the number of bytes is bounded before it."""

    spool_max_size = 2**62
    max_file_size = 2**62  # its name in earlier versions


async def read_form(request: Request, limits: Limits) -> FormData:
    """The fields and files of a multipart request.

    Refused with 415 (another kind of body), 413 (too many bytes), 408 (too slow), 400 (incomplete or malformed).
    """
    kind = request.headers.get("content-type", "")
    if not kind.lower().startswith("multipart/form-data"):
        raise Refused(
            415, f"the body is {kind or 'of no stated type'!r}; send multipart/form-data with a part named file"
        )
    too_large = Refused(
        413, f"the upload is larger than the {limits.upload_bytes:,} bytes allowed; send a smaller picture"
    )
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limits.upload_bytes:
        raise too_large
    end = b""

    async def counted() -> AsyncGenerator[bytes, None]:
        nonlocal end
        total = 0
        async for chunk in request.stream():
            total += len(chunk)
            if total > limits.upload_bytes:
                raise too_large
            end = (end + chunk)[-16:]
            yield chunk

    parser = _InMemory(request.headers, counted(), max_files=FILES, max_fields=FIELDS, max_part_size=FIELD_BYTES)
    try:
        async with asyncio.timeout(limits.upload_seconds):
            form = await parser.parse()
    except TimeoutError:
        raise Refused(408, f"the upload took longer than {limits.upload_seconds:g} seconds") from None
    except ClientDisconnect:
        raise Refused(400, "the upload stopped half way") from None
    except MultiPartException as error:
        raise Refused(400, f"the multipart body cannot be read: {error.message}") from None
    if not end.rstrip().endswith(b"--"):
        raise Refused(400, "the upload stopped half way: its last part has no end")
    return form


async def file_of(form: FormData, field: str) -> bytes:
    """The bytes of a file.  Refused (400) where there is none."""
    part = form.get(field)
    if not isinstance(part, UploadFile):
        raise Refused(400, f"there is no file named {field!r} in the request; send the picture under that name")
    return await part.read()


def text_of(form: FormData, field: str, default: str, choices: tuple[str, ...] = ()) -> str:
    """The text of a field.  Refused (400) for a file, (422) for what is not among the `choices`."""
    part = form.get(field, default)
    if not isinstance(part, str):
        raise Refused(400, f"{field} is a file; give a word")
    if choices and part not in choices:
        raise Refused(422, f"{field} is {part[:40]!r}; give one of {', '.join(choices)}")
    return part


def decode(data: bytes, limits: Limits, what: str = "the upload") -> np.ndarray:
    """The picture (H, W, 3) uint8, upright; of an animation the first frame.

    Refused with 413 (more pixels than allowed, by the header: nothing is decoded), 422 (no picture, damaged, truncated).
    """
    if not data:
        raise Refused(422, f"{what} is empty (0 bytes)")
    stream = io.BytesIO(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(stream, formats=FORMATS) as image:
                width, height = image.size
    except UnidentifiedImageError:
        raise Refused(
            422, f"{what} is not a picture: its contents are neither {', '.join(FORMATS[:-1])} nor {FORMATS[-1]}"
        ) from None
    except Image.DecompressionBombError:
        raise Refused(413, f"{what} has more than the {limits.pixels:,} pixels allowed") from None
    except Exception as error:
        raise Refused(422, f"{what} cannot be read as a picture: {error}") from None
    if width * height > limits.pixels:
        raise Refused(413, f"{what} has {width} x {height} pixels, more than the {limits.pixels:,} allowed")
    stream.seek(0)
    stream.name = what  # how messages call it
    try:
        return np.asarray(read_image(stream, limits.pixels))
    except ValueError as error:
        raise Refused(422, str(error)) from None


def background_of(given: str | bytes, limits: Limits) -> Background:
    """blur, blur:STRENGTH, transparent, a colour, or the bytes of a picture.  Refused (422) for anything else."""
    if isinstance(given, bytes):
        return Picture(decode(given, limits, "the background"))
    if given == "transparent":
        return Transparent()
    if blur := re.fullmatch(r"blur(?::(\d{1,2}(?:\.\d{1,3})?))?", given):
        strength = float(blur[1]) if blur[1] else BLUR
        if 0 < strength <= 20:
            return Blur(strength)
    elif len(given) <= 40:
        try:
            return Colour(cast("tuple[int, int, int]", ImageColor.getrgb(given)[:3]))
        except ValueError:
            pass
    raise Refused(
        422,
        f"background is {given[:40]!r}; give blur, blur:STRENGTH (above 0, up to 20), transparent, "
        "a colour (#20c040, green), or a picture as a file",
    )
