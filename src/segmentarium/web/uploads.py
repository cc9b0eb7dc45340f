"""Requests read with suspicion: a bounded number of bytes, in bounded time, kept in memory, decoded only if harmless.

Names of uploaded files are never looked at, and no word of a request is ever taken for a path.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Collection

import numpy as np
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from segmentarium.matting.backgrounds import BLUR, Background, Blur, Colour, Picture, Transparent, colour_of
from segmentarium.web.limits import Limits, Refused

FILES, FIELDS, FIELD_BYTES = 2, 8, 4096


class _InMemory(MultiPartParser):
    """Starlette's parser, which never moves a file to the disk: the number of bytes is bounded before it."""

    spool_max_size = 2**62
    max_file_size = 2**62  # its name in earlier versions


async def read_form(request: Request, limits: Limits) -> FormData:
    """The fields and files of a multipart request.

    Refused with 415 (another kind of body), 413 (too many bytes), 408 (too slow), 400 (incomplete or malformed).
    """
    request.state.read = False  # whether all that was sent has been read
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
        total, more = 0, True
        while more:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            chunk, more = message.get("body", b""), message.get("more_body", False)
            request.state.read = not more
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
    except (UnicodeError, LookupError, ValueError) as error:  # a charset that is none, a head that is none
        raise Refused(400, f"the multipart body cannot be read: {error}") from None
    if not end.rstrip().endswith(b"--"):
        raise Refused(400, "the upload stopped half way: its last part has no end")
    return form


def check_fields(form: FormData, fields: Collection[str]) -> None:
    """Refused (422) for a field that is not among `fields`: whoever sent it would believe that it counts."""
    if strange := [name for name in form if name not in fields]:
        raise Refused(422, f"there is no field {strange[0][:40]!r} here; the fields are {', '.join(fields)}")


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


def background_of(given: str | bytes, decode: Callable[[bytes, str], np.ndarray]) -> Background:
    """blur, blur:STRENGTH, transparent, a colour, or the bytes of a picture.  Refused (422) for anything else."""
    if isinstance(given, bytes):
        return Picture(decode(given, "the background")[..., :3])
    if given == "transparent":
        return Transparent()
    if blur := re.fullmatch(r"blur(?::(\d{1,2}(?:\.\d{1,3})?))?", given):
        strength = float(blur[1]) if blur[1] else BLUR
        if 0 < strength <= 20:
            return Blur(strength)
    elif len(given) <= 40:
        try:
            return Colour(colour_of(given))
        except ValueError:
            pass
    raise Refused(
        422,
        f"background is {given[:40]!r}; give blur, blur:STRENGTH (above 0, up to 20), transparent, "
        "a colour (#20c040, green), or a picture as a file",
    )
