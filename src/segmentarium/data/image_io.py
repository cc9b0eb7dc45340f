"""Read any picture file as 8-bit RGB, the right way up, or say what is wrong with it.

Cameras, scanners, microscopes and drawing programs write grey, palette, 16-bit, CMYK and transparent pictures,
and phones write them lying on their side with a note in the EXIF block. Everything that reads a picture here goes
through `read_image`, so that training, evaluation and prediction see the same pixels. This module imports neither
torch nor torchvision.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".jp2"})
DEFAULT_MAX_PIXELS = 2**31  # 46,000 x 46,000; Pillow's own limit (179 M pixels) is below aerial and scanned pictures

_EXIF_ORIENTATION = 0x0112
_limit_lock = threading.Lock()


class ImageReadError(ValueError):
    """A picture or mask file that is missing, empty, corrupt, truncated or not a picture; the message names it."""


def read_image(source: str | os.PathLike[str] | BinaryIO, max_pixels: int = DEFAULT_MAX_PIXELS) -> Image.Image:
    """The picture as an upright 8-bit RGB `PIL.Image`.

    Grey is repeated three times; palettes are resolved; an alpha channel is dropped (the colours stay as stored);
    CMYK, YCbCr and Lab are converted; deeper values become bytes as `to_8_bit` says; of an animation the first frame counts;
    EXIF rotation is applied.

    Raises:
        ImageReadError: the file is missing, empty, truncated, not a picture, or has more than `max_pixels` pixels.
    """
    if not isinstance(source, str | os.PathLike):
        with open_image(source, max_pixels) as image:
            return to_upright_rgb(image)
    from segmentarium.data.bands import bands_of, deep_colours

    try:
        with open_image(source, max_pixels) as image:
            if (deep := deep_colours(source, image)) is None:
                return to_upright_rgb(image)
            flat = Image.fromarray(to_8_bit(deep))
            flat.info.update(image.info)  # how it is turned
            return upright(flat)
    except ImageReadError as error:
        if (number := bands_of(source)) > 4:
            raise ImageReadError(
                f"{describe_source(source)} has {number} bands, and three are wanted; "
                f"a network with in_channels={number} takes all"
            ) from error
        raise


@contextmanager
def open_image(
    source: str | os.PathLike[str] | BinaryIO, max_pixels: int = DEFAULT_MAX_PIXELS
) -> Iterator[Image.Image]:
    """The opened picture in its own mode, for the length of a `with` block; any failure becomes an `ImageReadError`."""
    name = describe_source(source)
    if isinstance(source, str | os.PathLike):
        _check_file(Path(source), name)
    try:
        image = _open_unlimited(source)
    except UnidentifiedImageError as error:
        raise ImageReadError(f"{name} is not a picture that can be read: its contents fit no known format") from error
    except Exception as error:
        raise ImageReadError(f"{name} cannot be read as a picture: {error}") from error
    with image:
        if image.width * image.height > max_pixels:
            raise ImageReadError(
                f"{name} has {image.width} x {image.height} pixels, more than the {max_pixels:,} allowed; "
                "raise max_pixels if the file can be trusted"
            )
        try:
            image.load()
        except MemoryError:
            raise
        except Exception as error:
            raise ImageReadError(f"{name} is truncated or corrupt: {error}") from error
        try:
            yield image
        except ImageReadError:
            raise
        except (OSError, ValueError) as error:
            raise ImageReadError(f"{name} cannot be converted from mode {image.mode}: {error}") from error


def picture_shape(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(width, height) as the file's head says, before any rotation; no pixel is read.  Raises ImageReadError."""
    name = describe_source(path)
    _check_file(Path(path), name)
    try:
        with _open_unlimited(path) as image:
            return image.size
    except UnidentifiedImageError as error:
        raise ImageReadError(f"{name} is not a picture that can be read: its contents fit no known format") from error
    except Exception as error:
        raise ImageReadError(f"{name} cannot be read as a picture: {error}") from error


def to_upright_rgb(image: Image.Image) -> Image.Image:
    """An opened picture as `read_image` gives it; for callers that also want to know its mode."""
    return _to_rgb(upright(image))


def upright(image: Image.Image) -> Image.Image:
    """The opened picture as its EXIF block says that it is to be shown; its mode and palette stay."""
    return ImageOps.exif_transpose(image) if is_rotated(image) else image


def is_rotated(image: Image.Image) -> bool:
    """Whether the EXIF block says that the pixels lie on their side or are mirrored."""
    try:
        return image.getexif().get(_EXIF_ORIENTATION, 1) in range(2, 9)
    except Exception:  # a damaged EXIF block does not spoil the pixels
        return False


def describe_source(source: object) -> str:
    """The name by which messages call a picture: its path, or what kind of stream it is."""
    if isinstance(source, str | os.PathLike):
        return str(os.fspath(source))
    return str(getattr(source, "name", f"<{type(source).__name__}>"))


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


def _open_unlimited(source: str | os.PathLike[str] | BinaryIO) -> Image.Image:
    # Pillow keeps its pixel limit in a module variable and checks it while opening; we check our own right after.
    with _limit_lock:
        limit = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None
        try:
            return Image.open(source)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _to_rgb(image: Image.Image) -> Image.Image:
    mode = image.mode
    if mode == "RGB":
        return image.copy() if image.readonly else image
    if mode.startswith(("I", "F")):
        return Image.fromarray(to_8_bit(np.asarray(image))).convert("RGB")
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


def to_8_bit(values: np.ndarray) -> np.ndarray:
    """Values of any type as uint8: counts by the bits that they need, 0..1 as it is, all else from its least to its greatest."""
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * 255
    if values.dtype.kind == "f":
        values = np.nan_to_num(values.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    bits = depth_of(values)
    low, high = float(values.min()), float(values.max())
    wide = values.astype(np.float32)
    if bits is not None:
        scaled = wide * (255.0 / (2**bits - 1))
    elif values.dtype.kind == "f" and low >= 0.0 and high <= 1.0:
        scaled = wide * 255.0
    else:
        scaled = (wide - low) * (255.0 / max(high - low, 1e-12))
    return np.round(scaled).astype(np.uint8)
