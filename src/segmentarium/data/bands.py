"""Pictures of more than three bands, or of more than eight bits: what satellites, microscopes and thermal cameras write.

Pillow gives such files as RGB, cut off, or refuses them.  OpenCV reads colours of 16 bits; pyvips (the extra `large`) TIFFs of
any number of bands and pages.  All become bytes, by one rule (`image_io.to_8_bit`).  Imports no torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from segmentarium.data.image_io import (
    DEFAULT_MAX_PIXELS,
    ImageReadError,
    load_with_alpha,
    open_image,
    picture_shape,
    read_image,
    to_8_bit,
    to_upright_rgb,
)
from segmentarium.data.picture_head import TIFF, HeadError, check_head
from segmentarium.data.stored import open_file

_SAMPLES, _EXTRA = 277, 338  # tags of TIFF


def picture_array(path: str | os.PathLike[str], *, alpha: bool = False, bits: int | None = None) -> np.ndarray:
    """(H, W, C) uint8: RGB as `read_image` gives it; of a TIFF with further bands that are no alpha, all of them.

    Of several pages, which may be a document's, the first.

    alpha   (H, W, 4) of a picture that is partly transparent
    bits    of deep values, as `image_io.to_8_bit` takes them
    """
    if bands_of(path, pages=False) > 3:
        return read_bands(path, bits=bits)
    return load_with_alpha(path, bits) if alpha else np.asarray(read_image(path, bits=bits))


def picture_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(width, height) by the file's head, as `picture_shape` gives it, of any number of bands.  Raises ImageReadError."""
    try:
        return picture_shape(path)
    except ImageReadError:
        if not _begins_as_tiff(path):
            raise
        image = _open(path)
        return image.width, image.height


def read_bands(path: str | os.PathLike[str], wanted: int | None = None, bits: int | None = None) -> np.ndarray:
    """(H, W, C) uint8: every band of a file, or every page of a TIFF whose pages have one band each.

    wanted   how many there must be
    bits     of deep values, as `image_io.to_8_bit` takes them

    Raises:
        ImageReadError: it cannot be read, or has another number of bands.
        ImportError: it needs pyvips, which is not installed.
    """
    if wanted == 1:
        return np.asarray(read_image(path, bits=bits).convert("L"))[..., None]
    if _begins_as_tiff(path):
        array = to_8_bit(tiff_array(path), bits)
    else:
        with open_image(path) as image:
            array = np.asarray(image if image.mode in ("RGBA", "CMYK") else to_upright_rgb(image, path, bits))
    if wanted is not None and array.shape[2] != wanted:
        raise ImageReadError(
            f"{path} has {array.shape[2]} bands, and {wanted} are wanted; every picture must have as many"
        )
    return array


def bands_of(path: str | os.PathLike[str], pages: bool = True) -> int:
    """How many bands a file has, alpha left out; the `pages` of a TIFF are bands where each has one.  0: nobody knows."""
    if not _begins_as_tiff(path):
        return 3
    try:
        with open_file(path) as file, Image.open(file, formats=("TIFF",)) as image:
            tags = image.tag_v2  # type: ignore[attr-defined]
            samples, extra = int(tags.get(_SAMPLES, 1)), tags.get(_EXTRA, ())
            number = getattr(image, "n_frames", 1)
            if samples == 1 and number > 1 and pages:
                size = image.size
                image.seek(number - 1)
                return number if image.size == size else 1
            extra = (extra,) if isinstance(extra, int) else extra
            return samples - sum(one in (1, 2) for one in extra)
    except Exception:  # more bands than Pillow knows a mode for, or no sound file, which its reader says
        try:
            return _open(path).bands
        except (ImportError, ImageReadError):
            return 0


def _begins_as_tiff(path: str | os.PathLike[str]) -> bool:
    try:
        with open_file(path) as file:
            return file.read(4) in TIFF
    except OSError:
        return False


def _open(path: str | os.PathLike[str]) -> Any:
    """pyvips' image of a TIFF, its pages as bands where each has one."""
    try:
        import pyvips
    except (ImportError, OSError) as error:
        raise ImportError(
            f"{path} is a TIFF of several bands or pages, which pyvips reads: pip install 'segmentarium[large]'"
        ) from error
    try:
        with open(path, "rb") as file:
            check_head(file)
        image: Any = pyvips.Image.tiffload(str(path))
        pages = int(image.get("n-pages")) if "n-pages" in image.get_fields() else 1
        if pages > 1 and image.bands == 1:
            image = image.bandjoin([pyvips.Image.tiffload(str(path), page=page) for page in range(1, pages)])
        return image
    except (pyvips.Error, HeadError) as error:
        raise ImageReadError(f"{path} cannot be read as a picture: {' '.join(str(error).split())}") from None


def tiff_array(path: str | os.PathLike[str]) -> np.ndarray:
    """(H, W, C) of any type: every band, or page, of a TIFF, as its values lie.  Raises as `read_bands`."""
    import pyvips

    try:
        image = _open(path)
        if image.width * image.height > DEFAULT_MAX_PIXELS:
            raise ImageReadError(f"{path} has {image.width} x {image.height} pixels, more than {DEFAULT_MAX_PIXELS:,}")
        array = image.autorot().numpy()
    except pyvips.Error as error:
        raise ImageReadError(f"{path} is truncated or corrupt: {' '.join(str(error).split())}") from None
    return array if array.ndim == 3 else array[..., None]


def deep_colours(source: str | os.PathLike[str] | BinaryIO, image: Image.Image) -> np.ndarray | None:
    """(H, W, 3) of an opened file in colour whose 16 bits Pillow cuts to the upper 8, as it lies; None for any other.

    source   the file, or the open one, which stays where it is
    """
    if image.mode not in ("RGB", "RGBA"):
        return None
    bits = 8
    if image.format == "PNG":
        with _from_its_start(source) as file:
            bits = file.read(25)[-1]  # signature 8, IHDR 8, width 4, height 4, depth 1
    elif image.format == "TIFF":
        bits = max(image.tag_v2.get(258, (8,)))  # type: ignore[attr-defined]
    if bits <= 8:
        return None
    import cv2

    with _from_its_start(source) as file:
        content = np.frombuffer(file.read(), np.uint8)
    array = cv2.imdecode(content, cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
    return None if array is None or array.ndim != 3 else np.ascontiguousarray(array[..., 2::-1])


@contextmanager
def _from_its_start(source: str | os.PathLike[str] | BinaryIO) -> Iterator[BinaryIO]:
    """A file opened, or an open one put back afterwards to where it stood."""
    if isinstance(source, str | os.PathLike):
        with open_file(source) as file:
            yield file
        return
    place = source.tell()
    source.seek(0)
    try:
        yield source
    finally:
        source.seek(place)
