"""Alpha mattes at full resolution from a network's small soft mask, and the person's own colours at the soft edge.

The mask is made to follow the edges of a small copy of the picture (the guide) in a few passes of the guided filter, each
finer than the one before and each pushed towards 0 and 1 afterwards: a wide pass alone leaves a grey haze, a narrow one
cannot move an edge.  What remains of it are linear functions of the colour that vary slowly over the picture.  The full
picture under these functions is its matte; they are evaluated only where the small matte is neither clear nor solid.

Colours at the edge are mixtures of person and background.  They are taken apart in the way of Forte, Approximate Fast
Foreground Colour Estimation, ICIP 2021: colours of either side are spread by weighted blurs, and what they do not explain
of a pixel is given to the person in proportion to its alpha.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from segmentarium.matting.guided import apply, box, coefficients, larger, smaller

GUIDE_SIDE = 640  # longer side of the guide of a photo, pixels
STAGES = (5.6, 3.4, 1.7)  # radii of the filter's passes in pixels of the network's mask
EPSILON = 1e-3
STRETCH = (0.2, 0.8)  # between the passes; STRETCH_LAST after the last one
STRETCH_LAST = (0.1, 0.9)
MARGIN = 2  # pixels of the guide around what is neither clear nor solid in it that are evaluated, too
_BAND = 128
_SAMPLED = 1024  # pixels of a row of those that are sampled: OpenCV takes no longer side than 32767


@dataclass(frozen=True)
class Band:
    """The pixels of some rows that are neither clear nor solid.

    alpha  (n, W) uint8: 0 and 255 where that is certain; to be filled in at `index`
    index  (N,) of the flattened rows
    """

    top: int
    alpha: np.ndarray
    index: np.ndarray


class Matte:
    """How far each pixel of a picture belongs to the person, in a form that takes little memory at any size.

    functions  (G + 1, h, w): alpha as a linear function of the first G channels of the colour (0..1), see
               `guided.coefficients`
    small      (h, w) float32, alpha of the guide, 0..1
    guide      (C, h, w) float32, the small picture
    size       (H, W) of the full picture
    """

    def __init__(self, functions: np.ndarray, small: np.ndarray, guide: np.ndarray, size: tuple[int, int]) -> None:
        self.small, self.guide, self.size = small, guide, size
        self._functions = functions
        around = np.ones((2 * MARGIN + 1, 2 * MARGIN + 1), np.uint8)
        clear = cv2.erode((small <= 0).view(np.uint8), around)
        solid = cv2.erode((small >= 1).view(np.uint8), around)
        self._state = solid * np.uint8(255) + (1 - clear - solid) * np.uint8(_BAND)
        height, width = size
        self._rows = ((np.arange(height) + 0.5) * (small.shape[0] / height)).astype(np.intp)
        self._columns = ((np.arange(width) + 0.5) * (small.shape[1] / width)).astype(np.intp)
        self._maps: np.ndarray | None = None

    def band(self, top: int, bottom: int) -> Band:
        """Rows top..bottom - 1 with the certain pixels filled in."""
        alpha = self._state.take(self._columns, axis=1)[self._rows[top:bottom]]
        return Band(top, alpha, np.flatnonzero(alpha == _BAND))

    def solve(self, band: Band, values: np.ndarray, *, colours: bool) -> np.ndarray | None:
        """Fills in `band.alpha` from the colours (N, C) uint8 at `band.index`; gives back the person's own colours there.

        colours  False: alpha only, for which the channels that guide are enough
        """
        flat = band.alpha.reshape(-1)
        if not len(band.index):
            return values if colours else None
        sampled = self._sample(self._colour_maps() if colours else self._functions, band)
        guides, channels = len(self._functions) - 1, values.shape[1]
        given = np.multiply(values.T, np.float32(1 / 255), order="C")
        alpha = _stretched(apply(sampled[: guides + 1], given[:guides]), STRETCH_LAST)
        flat[band.index] = as_bytes(alpha)
        if not colours:
            return None
        person, behind = sampled[guides + 1 : guides + 1 + channels], sampled[guides + 1 + channels :]
        own = person + alpha * (given - alpha * person - (1 - alpha) * behind)
        return as_bytes(own.clip(0, 1)).T

    def rows(self, pixels: np.ndarray, top: int = 0, *, colours: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """(alpha (n, W) uint8, the person's own colours (n, W, C) uint8) of the rows `pixels` (n, W, C) uint8 from `top` on.

        colours  False: the pixels are given back as they are
        """
        if pixels.shape[1] != self.size[1] or top + len(pixels) > self.size[0]:
            raise ValueError(f"rows of shape {pixels.shape} from {top} on are not of a picture of {self.size} pixels")
        band = self.band(top, top + len(pixels))
        flat = np.ascontiguousarray(pixels).reshape(-1, pixels.shape[2])
        own = self.solve(band, flat[band.index], colours=colours)
        if own is None:
            return band.alpha, pixels
        result = flat.copy()
        result[band.index] = own
        return band.alpha, result.reshape(pixels.shape)

    def alpha(self, pixels: np.ndarray) -> np.ndarray:
        """(H, W) uint8 of the whole picture (H, W, C) uint8."""
        return self.rows(pixels, colours=False)[0]

    def _sample(self, maps: np.ndarray, band: Band) -> np.ndarray:
        """(K, N): the maps (K, h, w) at the band's pixels, bilinear."""
        height, width = self.size
        count = len(band.index)
        row = band.index // width
        places = np.zeros((2, -(-count // _SAMPLED) * _SAMPLED), np.float32)
        places[0, :count] = centres(width, maps.shape[2])[band.index - row * width]
        places[1, :count] = centres(height, maps.shape[1])[row + band.top]
        x, y = places.reshape(2, -1, _SAMPLED)
        sampled = np.empty((len(maps), *x.shape), np.float32)
        for i in range(len(maps)):
            cv2.remap(maps[i], x, y, cv2.INTER_LINEAR, sampled[i], cv2.BORDER_REPLICATE)
        return sampled.reshape(len(maps), -1)[:, :count]

    def _colour_maps(self) -> np.ndarray:
        """The functions, the person's colours and the background's, spread over the edge: (G + 1 + 2 C, h, w)."""
        if self._maps is None:
            # the colours vary slowly: half the guide's size is enough, and a quarter of the work
            planes = np.concatenate((self.guide, self.small[None]))
            height, width = self.small.shape
            if min(height, width) >= 16:
                planes = smaller(planes, 2)
            guide, small = planes[:-1], planes[-1]
            scale = max(small.shape) / 288
            both = np.concatenate((spread(guide, small**2, scale), spread(guide, (1 - small) ** 2, scale)))
            self._maps = np.concatenate((self._functions, larger(both, (height, width))))
        return self._maps


def spread(guide: np.ndarray, weight: np.ndarray, scale: float) -> np.ndarray:
    """Colours (C, h, w) as weighted means of their neighbourhood: a near one where there is weight, else a wide one."""
    weighted = np.concatenate((guide * weight, weight[None]))
    result = weighted[:-1].mean((1, 2), keepdims=True) / max(float(weighted[-1].mean()), 1e-6)
    for radius, trust in ((16, 1e-3), (2, 1e-2)):
        means = box(weighted, max(1, round(radius * scale)))
        result = (means[:-1] + trust * result) / (means[-1] + trust)
    return result.clip(0, 1)


def fit_matte(
    guide: np.ndarray,
    probability: np.ndarray,
    size: tuple[int, int],
    *,
    stages: Sequence[float] = STAGES,
    grey: bool = False,
) -> Matte:
    """The matte of a picture.

    guide        (C, h, w) float32, 0..1: the picture in small, in the colour space of the pixels that will be given to it
    probability  (a, b) float32, 0..1: the network's soft mask of the same picture, at any size
    size         (H, W) of the full picture
    stages       radii of the filter's passes, in pixels of `probability`
    grey         the first channel alone guides: a third of the time, for video
    """
    height, width = guide.shape[1:]
    unit = max(height, width) / max(probability.shape)
    small = resized(probability, (height, width))
    seen = guide[:1] if grey else guide
    functions = np.zeros(1)
    for radius in stages:
        functions = coefficients(seen, small, max(1, round(radius * unit)), EPSILON)
        last = radius == stages[-1]
        small = _stretched(apply(functions, seen), STRETCH_LAST if last else STRETCH)
    return Matte(functions, small, guide, size)


def resized(plane: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(h, w) -> (H, W) float32, bilinear."""
    return plane if plane.shape == tuple(size) else larger(plane[None], size)[0]


@lru_cache(maxsize=32)
def centres(length: int, small: int) -> np.ndarray:
    """Where the `length` pixels of a row lie in a copy of `small` pixels, counted from the centre of its first one."""
    return ((np.arange(length) + 0.5) * (small / length) - 0.5).astype(np.float32)


def _stretched(values: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    low, high = limits
    values = (values - np.float32(low)) * np.float32(1 / (high - low))
    return values.clip(0, 1, out=values)


def as_bytes(values: np.ndarray) -> np.ndarray:
    """0..1 -> 0..255 uint8, rounded."""
    return (values * np.float32(255) + np.float32(0.5)).astype(np.uint8)
