"""Read any picture file as 8-bit RGB, the right way up, or say what is wrong with it.

Cameras, scanners, microscopes and drawing programs write grey, palette, 16-bit, CMYK and transparent pictures,
and phones write them lying on their side with a note in the EXIF block. Everything that reads a picture here goes
through `read_image`, so that training, evaluation and prediction see the same pixels. What a file asks of its decoder is
bounded before it is asked (`picture_head`), and only formats that are decoded by well-worn code are tried. This module imports
neither torch nor torchvision.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from segmentarium.data.picture_head import HeadError, boxed_picture, check_head, orientation_of
from segmentarium.data.stored import Stored, open_file
from segmentarium.files import shown

IMAGE_SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".jp2", ".avif", ".heic", ".heif",
})  # fmt: skip
DEFAULT_MAX_PIXELS = 2**31  # 46,000 x 46,000; Pillow's own limit (179 M pixels) is below aerial and scanned pictures
# Pillow knows more: some start other programs (EPS), some are decoded pixel by pixel in Python (QOI, DDS); HEIF it does not
# know, pi-heif (the extra `heic`) reads that
FORMATS = (
    "AVIF", "BMP", "DIB", "GIF", "HEIF", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "SGI", "TGA", "TIFF", "WEBP",
)  # fmt: skip

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SAY_TURN = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")
_MOVING = ("AVIF", "GIF", "PNG", "WEBP")  # whose several pictures are an animation's frames
_limit_lock = threading.Lock()
log = logging.getLogger(__name__)


class ImageReadError(ValueError):
    """A picture or mask file that is missing, empty, corrupt, truncated or not a picture; the message names it."""


class TooLargeError(ImageReadError):
    """A picture of more pixels than are allowed; nothing of it was decoded."""


def read_image(
    source: str | os.PathLike[str] | BinaryIO,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    formats: Sequence[str] = FORMATS,
    bits: int | None = None,
) -> Image.Image:
    """The picture as an upright 8-bit RGB `PIL.Image`.

    Grey is repeated three times; palettes are resolved; an alpha channel is dropped (the colours stay as stored);
    CMYK, YCbCr and Lab are converted; deeper values become bytes as `to_8_bit` says; of an animation the first frame counts;
    EXIF rotation is applied.

    formats: names of Pillow's; what else the file may be is not tried.
    bits: of values deeper than a byte, as `to_8_bit` takes them.

    Raises:
        ImageReadError: the file is missing, empty, truncated, not a picture, or has more than `max_pixels` pixels.
    """
    path = source if isinstance(source, str | os.PathLike) else None
    try:
        with open_image(source, max_pixels, formats) as image:
            return to_upright_rgb(image, source, bits)
    except ImageReadError as error:
        if path is None:
            raise
        from segmentarium.data.bands import bands_of

        if (number := bands_of(path)) > 4:
            raise ImageReadError(
                f"{describe_source(source)} has {number} bands, and three are wanted; "
                f"a network with in_channels={number} takes all"
            ) from error
        raise


@contextmanager
def open_image(
    source: str | os.PathLike[str] | BinaryIO,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    formats: Sequence[str] = FORMATS,
) -> Iterator[Image.Image]:
    """The opened picture in its own mode, for the length of a `with` block.

    Whatever a decoder raises, and what converting the picture raises inside of the block, becomes an `ImageReadError`.
    """
    name = describe_source(source)
    with peek(source, formats) as image:
        if image.width * image.height > max_pixels:
            raise TooLargeError(
                f"{name} has {image.width} x {image.height} pixels, more than the {max_pixels:,} allowed; "
                "raise max_pixels if the file can be trusted"
            )
        try:
            image.load()
        except MemoryError:
            raise MemoryError(f"{name}: there is no memory for its {image.width} x {image.height} pixels") from None
        except Exception as error:
            raise ImageReadError(f"{name} is truncated or corrupt: {_reason(error)}") from error
        try:
            yield image
        except (ImageReadError, MemoryError):
            raise
        except Exception as error:
            raise ImageReadError(f"{name} cannot be converted from mode {image.mode}: {_reason(error)}") from error


@contextmanager
def peek(source: str | os.PathLike[str] | BinaryIO, formats: Sequence[str] = FORMATS) -> Iterator[Image.Image]:
    """The picture whose head alone is read: its size, mode and kind.  Raises ImageReadError."""
    name = describe_source(source)
    try:
        if isinstance(source, Stored):
            source = open_file(source)
        if isinstance(source, str | os.PathLike):
            _check_file(Path(source), name)
            with open(source, "rb") as file:
                check_head(file)
        else:
            place = source.tell()
            check_head(source)
            source.seek(place)
        image = _open_unlimited(source, formats)
    except ImageReadError:
        raise
    except UnidentifiedImageError as error:
        raise ImageReadError(f"{name} is not a picture that can be read: its contents fit no known format") from error
    except HeadError as error:
        raise ImageReadError(f"{name} is refused: {error}") from None
    except Exception as error:
        raise ImageReadError(f"{name} cannot be read as a picture: {_reason(error)}") from error
    with image:
        yield image


def picture_shape(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(width, height) as the file's head says, before any rotation; no pixel is read.  Raises ImageReadError."""
    with peek(path) as image:
        return image.size


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def to_upright_rgb(
    image: Image.Image, source: str | os.PathLike[str] | BinaryIO | None = None, bits: int | None = None
) -> Image.Image:
    """An opened picture as `read_image` gives it; for callers that also want to know its mode.

    source   its file, or the open one, without which colours of 16 bits are as Pillow cuts them
    bits     of deep values, as `to_8_bit` takes them
    """
    if source is not None:
        from segmentarium.data.bands import deep_colours

        if (deep := deep_colours(source, image)) is not None:
            flat = Image.fromarray(to_8_bit(deep, bits))
            flat.info.update(image.info)  # how it is turned
            return upright(flat)
    return _to_rgb(upright(image), bits)


def load_with_alpha(source: str | os.PathLike[str] | BinaryIO, bits: int | None = None) -> np.ndarray:
    """(H, W, 3) uint8, or (H, W, 4) of a picture that is partly transparent; raises as `read_image`.

    That of an animation the first frame is taken is told in a line.
    """
    with open_image(source) as image:
        pixels = with_alpha(image, source, bits)
        with contextlib.suppress(Exception):  # what is wrong with later frames is nobody's concern here
            if image.format in _MOVING and (count := getattr(image, "n_frames", 1)) > 1:
                log.warning("%s: of its %d frames the first is taken", describe_source(source), count)
        return pixels


def with_alpha(
    image: Image.Image, source: str | os.PathLike[str] | BinaryIO | None = None, bits: int | None = None
) -> np.ndarray:
    """An opened picture, upright: (H, W, 3) uint8, or (H, W, 4) where a part of it is transparent.

    source, bits   as of `to_upright_rgb`
    """
    alpha = alpha_of(image)
    pixels = np.asarray(to_upright_rgb(image, source, bits))
    return pixels if alpha is None else np.dstack((pixels, np.asarray(alpha)))


def alpha_of(image: Image.Image) -> Image.Image | None:
    """The alpha (mode L) of an opened picture, upright; None: no part of it is transparent."""
    if not may_be_transparent(image):
        return None
    turned = upright(image)
    alpha = (turned if turned.mode in ("RGBA", "LA") else turned.convert("RGBA")).getchannel("A")
    return None if alpha.getextrema() == (255, 255) else alpha


def may_be_transparent(image: Image.Image) -> bool:
    """Whether an opened picture, of which no pixel need be read yet, has alpha or names a transparent colour."""
    return image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info


def upright(image: Image.Image) -> Image.Image:
    """The opened picture as its EXIF block says that it is to be shown; its mode and palette stay."""
    turn = _TURNS.get(orientation_of(image.info))
    if turn is None:
        return image
    turned = image.transpose(turn)
    for key in _SAY_TURN:  # it is upright now
        turned.info.pop(key, None)
    return turned


def is_rotated(image: Image.Image) -> bool:
    """Whether the EXIF block says that the pixels lie on their side or are mirrored; a damaged block says nothing."""
    return orientation_of(image.info) in _TURNS


def describe_source(source: object) -> str:
    """The name by which messages call a picture: its path, or what kind of stream it is."""
    if isinstance(source, str | os.PathLike):
        return shown(source)
    return shown(str(getattr(source, "name", f"<{type(source).__name__}>")))


def _check_file(path: Path, name: str) -> None:
    if path.is_dir():
        raise ImageReadError(f"{name} is a folder, not a picture")
    try:
        size = path.stat().st_size
    except FileNotFoundError as error:
        raise ImageReadError(f"{name} does not exist") from error
    except OSError as error:
        raise ImageReadError(f"{name} cannot be opened: {error}") from error
    if size == 0:
        raise ImageReadError(f"{name} is an empty file (0 bytes)")


def _open_unlimited(source: str | os.PathLike[str] | BinaryIO, formats: Sequence[str]) -> Image.Image:
    if "HEIF" in formats and boxed_picture(_beginning(source)) == "HEIF":
        return _open_heif(source)
    formats = [one for one in formats if one != "HEIF"]
    # Pillow keeps its pixel limit in a module variable and checks it while opening; we check our own right after.
    with _limit_lock:
        limit = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None
        try:
            return Image.open(source, formats=tuple(formats))
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _beginning(source: str | os.PathLike[str] | BinaryIO) -> bytes:
    if isinstance(source, str | os.PathLike):
        with open(source, "rb") as file:
            return file.read(64)
    place = source.tell()
    head = source.read(64)
    source.seek(place)
    return head


def _open_heif(source: str | os.PathLike[str] | BinaryIO) -> Image.Image:
    try:
        from pi_heif import HeifImageFile
    except ImportError:
        raise ImageReadError(
            f"{describe_source(source)} is a HEIC or HEIF picture, which pi-heif reads: pip install 'segmentarium[heic]'"
        ) from None
    image = HeifImageFile(os.fspath(source) if isinstance(source, os.PathLike) else source)
    for key in _SAY_TURN:  # it is decoded as it is to be shown, whatever the camera says here once more
        image.info.pop(key, None)
    return image


def _to_rgb(image: Image.Image, bits: int | None = None) -> Image.Image:
    mode = image.mode
    if mode == "RGB":
        return image.copy() if image.readonly else image
    if mode.startswith(("I", "F")):
        return Image.fromarray(to_8_bit(np.asarray(image), bits)).convert("RGB")
    if mode in ("PA", "LA", "La", "RGBa") or (mode == "P" and "transparency" in image.info):
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")


def depth_of(values: np.ndarray) -> int | None:
    """Bits of the values, by the greatest of them: 8, 10, 12, 14 or 16, as cameras have; None: they are no such counts.

    12 bits are often kept in files of 16: they would be nearly black if 65,535 were white.
    """
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if values.dtype.kind not in "uif" or not 0 <= low <= high <= 65535 or (values.dtype.kind == "f" and high <= 1):
        return None
    return next(bits for bits in (8, 10, 12, 14, 16) if high < 2**bits)


def to_8_bit(values: np.ndarray, bits: int | None = None) -> np.ndarray:
    """Values of any type as uint8: counts by the bits that they need, 0..1 as it is, all else from its least to its greatest.

    bits   of what is deeper than a byte: 2 ** bits - 1 is white, whatever these values need; what is beyond that is white, too
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * 255
    if values.dtype.kind == "f":
        values = np.nan_to_num(values.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    wide = values.astype(np.float32)
    if bits is not None:
        return np.round((wide * (255.0 / (2**bits - 1))).clip(0, 255)).astype(np.uint8)
    bits = depth_of(values)
    low, high = float(values.min()), float(values.max())
    if bits is not None:
        scaled = wide * (255.0 / (2**bits - 1))
    elif values.dtype.kind == "f" and low >= 0.0 and high <= 1.0:
        scaled = wide * 255.0
    else:
        scaled = (wide - low) * (255.0 / max(high - low, 1e-12))
    return np.round(scaled).astype(np.uint8)
