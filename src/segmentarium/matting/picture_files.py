"""Portraits from file to file: what a suffix can hold, and pictures too large for memory in rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from PIL import Image

from segmentarium.data.bands import picture_size
from segmentarium.data.image_io import load_with_alpha
from segmentarium.files import atomic_write, check_targets
from segmentarium.media.png import PngWriter
from segmentarium.media.readers import LARGE, LargePicture

if TYPE_CHECKING:
    from segmentarium.matting.portrait import Portrait

JPEG = (".jpg", ".jpeg")
FORMATS = {".png": "PNG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF", ".bmp": "BMP"} | dict.fromkeys(JPEG, "JPEG")
WITHOUT_ALPHA = (*JPEG, ".bmp")


def check_suffix(path: Path, *, transparent: bool) -> None:
    """ValueError for a suffix that is no picture's, or of a format without alpha where it is needed."""
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise ValueError(f"{path}: pictures are written as {', '.join(FORMATS)}")
    if transparent and suffix in WITHOUT_ALPHA:
        raise ValueError(f"{path}: {suffix} holds no transparency; give a .png, .webp or .tif, or another background")


def write_picture(pixels: np.ndarray, target: Path | BinaryIO, suffix: str) -> None:
    """(H, W, 3 or 4) uint8 in the format of a suffix."""
    if suffix == ".png" and isinstance(target, Path):
        height, width, channels = pixels.shape
        with PngWriter(target, width, height, "RGBA" if channels == 4 else "RGB") as png:
            for top in range(0, height, 256):
                png.write(pixels[top : top + 256])
        return
    options: dict[str, Any] = {}
    if suffix in JPEG:
        options = {"quality": 95, "subsampling": 0}
    elif suffix == ".webp":
        options = {"quality": 95, "method": 2}
    Image.fromarray(pixels).save(target, FORMATS[suffix], **options)


def convert(portrait: Portrait, path: Path, out: Path, *, overwrite: bool = False) -> float:
    """One picture file; the share of it that the person takes."""
    check_suffix(out, transparent=portrait.transparent)
    check_targets([out], [path], overwrite=overwrite)
    width, height = picture_size(path)
    if width * height <= LARGE:
        result = portrait(load_with_alpha(path))
        result.save(out, overwrite=overwrite)
        return result.share
    return _convert_in_rows(portrait, path, out)


def _convert_in_rows(portrait: Portrait, path: Path, out: Path) -> float:
    from segmentarium.matting.cutout import guide_size

    if out.suffix.lower() != ".png":
        raise ValueError(f"{out}: pictures above {LARGE // 10**6} megapixels are written in rows, as .png")
    picture = LargePicture(path)
    rows = picture.open()
    size = (rows.height, rows.width)
    small = guide_size(size)
    matte = portrait.matte_of_guide(picture.thumbnail(small[1], small[0]), size)
    total = 0
    mode = "RGBA" if portrait.transparent else "RGB"
    with atomic_write(out) as temporary, PngWriter(temporary, size[1], size[0], mode) as png:
        for _, pixels, alpha in portrait.bands(rows, matte):
            png.write(pixels)
            total += int(alpha.sum(dtype=np.int64))
    return total / (255 * size[0] * size[1])
