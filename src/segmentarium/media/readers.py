"""Pictures too large for memory, read in rows.

With pyvips (`pip install 'segmentarium[large]'`) JPEG, PNG, TIFF and the other formats of libvips are decoded as they are
needed; without it the whole picture is decoded once, which takes four bytes a pixel. Rotated and otherwise unusual
pictures (progressive JPEG, interlaced PNG) cannot be decoded in order: libvips keeps those in memory or in a temporary file.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from segmentarium.data.image_io import (
    ImageReadError,
    alpha_of,
    depth_of,
    may_be_transparent,
    open_image,
    peek,
    read_image,
)

if TYPE_CHECKING:
    from torch import Tensor

LARGE = 40_000_000  # pixels; beyond it the command line reads, segments and writes in rows


# Pillow's name of a format -> libvips' reader: what the file is was found out already, and nothing else is tried
_READERS = {"JPEG": "jpegload", "PNG": "pngload", "TIFF": "tiffload", "WEBP": "webpload"}


def _tensor(rows: np.ndarray) -> Tensor:
    """(h, W, C) -> (1, C, h, W), a view where PyTorch can have one."""
    import torch

    if not rows.flags.writeable or min(rows.strides) < 0:  # it takes neither
        rows = rows.copy()
    return torch.from_numpy(rows).permute(2, 0, 1)[None]


class ArrayRows:
    """An array (H, W, C) uint8 as rows (1, C, h, W); `alpha` (H, W) of one that is partly transparent."""

    def __init__(self, image: np.ndarray, alpha: np.ndarray | None = None) -> None:
        self.height, self.width = image.shape[:2]
        self._image, self._alpha = image, alpha

    def rows(self, top: int, bottom: int) -> Tensor:
        return _tensor(self.array(top, bottom))

    def array(self, top: int, bottom: int) -> np.ndarray:
        return self._image[top:bottom]

    def alpha(self, top: int, bottom: int) -> np.ndarray | None:
        return None if self._alpha is None else self._alpha[top:bottom]


class PillowRows:
    """A decoded RGB picture of Pillow as rows, without a second copy of it; `alpha`: of mode L, where a part is transparent."""

    def __init__(self, image: Image.Image, alpha: Image.Image | None = None) -> None:
        self.width, self.height = image.size
        self._image, self._alpha = image, alpha

    def array(self, top: int, bottom: int) -> np.ndarray:
        """(bottom - top, W, 3) uint8"""
        return np.array(self._image.crop((0, top, self.width, bottom)))

    def alpha(self, top: int, bottom: int) -> np.ndarray | None:
        """(bottom - top, W) uint8; None: no part of the picture is transparent."""
        return None if self._alpha is None else np.array(self._alpha.crop((0, top, self.width, bottom)))

    def rows(self, top: int, bottom: int) -> Tensor:
        return _tensor(self.array(top, bottom))


class VipsRows:
    """A picture file as rows of 8-bit RGB, or RGBA, decoded from top to bottom as they are asked for.

    Rows may be asked for again until later ones have been asked for: it keeps those from the last `top` on.
    """

    def __init__(self, image: Any) -> None:
        import pyvips

        self.height, self.width = int(image.height), int(image.width)
        self._region, self._bands = pyvips.Region.new(image), int(image.bands)
        self._kept = np.empty((0, self.width, self._bands), np.uint8)
        self._top = 0

    def array(self, top: int, bottom: int) -> np.ndarray:
        """(bottom - top, W, 3) uint8"""
        return np.ascontiguousarray(self._read(top, bottom)[..., :3])

    def alpha(self, top: int, bottom: int) -> np.ndarray | None:
        """(bottom - top, W) uint8; None: the picture has none."""
        return self._read(top, bottom)[..., 3] if self._bands == 4 else None

    def _read(self, top: int, bottom: int) -> np.ndarray:
        import pyvips

        if top < self._top:
            raise ValueError(f"row {top} was let go of: rows are read forwards, and those from {self._top} on are kept")
        kept = self._kept[top - self._top :]
        read = self._top + len(self._kept)
        if bottom > read:
            rows = np.empty((bottom - top, self.width, self._bands), np.uint8)
            rows[: len(kept)] = kept
            # in pieces: a fetch returns bytes that are copied once more
            for start in range(max(read, top), bottom, 64):
                stop = min(start + 64, bottom)
                try:
                    data = self._region.fetch(0, start, self.width, stop - start)
                except pyvips.Error as error:
                    raise ImageReadError(f"row {start}: {str(error).strip()}") from error
                rows[start - top : stop - top] = np.frombuffer(data, np.uint8).reshape(-1, self.width, self._bands)
            kept = rows
        self._kept, self._top = kept, top
        return kept[: bottom - top]

    def rows(self, top: int, bottom: int) -> Tensor:
        return _tensor(self.array(top, bottom))


class LargePicture:
    """A picture file that is opened as often as it is read, and read in rows.

    bits   of deep values, as `to_8_bit` takes them
    """

    def __init__(self, path: str | os.PathLike[str], bits: int | None = None) -> None:
        self.path, self.bits = Path(path), bits
        self._decoded: Image.Image | None = None
        self._alpha: Image.Image | None = None
        self._white = None if bits is None else 2**bits - 1  # in a picture of 16 bits, once that is known
        kind, self._has_alpha = _kind_of(self.path)
        self._reader = _READERS.get(kind) if importlib.util.find_spec("pyvips") else None
        self._in_rows = self._reader is not None

    @property
    def reads_in_rows(self) -> bool:
        """Whether the file is decoded as needed, instead of whole."""
        return self._in_rows

    def open(self) -> PillowRows | VipsRows:
        """The picture's rows, from the first one.  ImageReadError where the file is damaged."""
        if self._in_rows:
            return VipsRows(self._vips(alpha=self._has_alpha))
        return PillowRows(self._whole(), self._alpha)

    def thumbnail(self, width: int, height: int) -> np.ndarray:
        """The whole picture as (height, width, 3) uint8."""
        if self._in_rows:
            import pyvips

            try:
                image = self._vips()
                small = image.resize(width / image.width, vscale=height / image.height, kernel="linear")
                return np.ascontiguousarray(small.extract_area(0, 0, width, height).numpy())
            except pyvips.Error as error:
                raise ImageReadError(f"{self.path}: {str(error).strip()}") from error
        return np.asarray(self._whole().resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2))

    def _whole(self) -> Image.Image:
        if self._decoded is None:
            self._decoded = read_image(self.path, bits=self.bits)
            if self._has_alpha:  # decoded once more, for one byte a pixel
                with open_image(self.path) as image:
                    self._alpha = alpha_of(image)
        return self._decoded

    def _vips(self, *, alpha: bool = False) -> Any:
        """Three bands, and a fourth where the picture's own `alpha` is wanted."""
        import pyvips

        pyvips.cache_set_max(0)  # the cache of operations would keep files open and rows in memory
        try:
            read = getattr(pyvips.Image, str(self._reader))
            image = read(str(self.path), access="sequential", fail_on="truncated")
            if "orientation" in image.get_fields() and image.get("orientation") != 1:
                image = read(str(self.path), access="random", fail_on="truncated").autorot()
            bands = 3 if image.bands >= 3 else 1
            own = image[image.bands - 1] if alpha and image.bands in (2, 4) else None
            image = image.extract_band(0, n=bands) if image.bands != bands else image
            if image.format == "ushort":
                white = self._white
                if white is None:
                    # by the bits that all of it needs, as `to_8_bit`: the file is read once more for that
                    again = read(str(self.path), access="sequential", fail_on="truncated")
                    greatest = np.array([again.extract_band(0, n=bands).max()], np.uint16)
                    white = self._white = 2 ** (depth_of(greatest) or 16) - 1
                image = (image * (255 / white)).rint().cast("uchar")
            image = image if bands == 3 else image.bandjoin([image, image])
            if own is None:
                return image
            return image.bandjoin(own if own.format == "uchar" else (own / 257).rint().cast("uchar"))
        except pyvips.Error as error:
            raise ImageReadError(f"{self.path} cannot be read: {str(error).strip()}") from error


def _kind_of(path: Path) -> tuple[str, bool]:
    """Pillow's name of the format where the first three (or the one) channels of the file, as libvips sees it, are what
    `read_image` would give, "" where they are not; and whether a part of it may be transparent."""
    with peek(path) as image:
        plain = image.mode in ("RGB", "RGBA", "L", "LA", "P", "1") or image.mode.startswith("I;16")
        plain = plain and not (image.mode == "P" and "transparency" in image.info)
        return (image.format or "") if plain else "", may_be_transparent(image)
