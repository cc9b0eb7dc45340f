"""A picture at the size at which a network sees it, and looked at several times.  Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from segmentarium.inference.matte import resized


def scaled(image: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """(H, W, C) uint8 at another size (h, w), bilinear, without aliasing where it shrinks."""
    height, width = size
    if image.shape[:2] == (height, width):
        return image
    if image.shape[2] in (3, 4):
        return _scaled(np.ascontiguousarray(image), width, height)
    planes = [_scaled(np.ascontiguousarray(image[..., i]), width, height) for i in range(image.shape[2])]
    return np.stack(planes, 2)


def _scaled(image: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR, reducing_gap=3))


def model_size(size: tuple[int, int], long_side: int | None) -> tuple[int, int]:
    """(height, width) at which a network with this `Preprocessing.long_side` sees a picture of `size`."""
    if long_side is None or max(size) == long_side:
        return size
    factor = long_side / max(size)
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def average_views(
    look: Callable[[np.ndarray], np.ndarray],
    image: np.ndarray,
    size: tuple[int, int],
    *,
    flip: bool = False,
    scales: Sequence[float] = (1.0,),
) -> np.ndarray:
    """(h, w) float32: the mean of what `look` finds in several views of one picture.

    look    (h, w, C) uint8 -> (h, w) float32
    image   (H, W, C) uint8
    size    (h, w) at which the network sees it
    flip    mirrored, too
    scales  at these factors of `size`
    """
    found: list[np.ndarray] = []
    for scale in scales:
        view = scaled(image, [max(1, round(side * scale)) for side in size])
        found.append(resized(look(view), size))
        if flip:
            found.append(resized(look(view[:, ::-1]), size)[:, ::-1])
    return sum(found[1:], found[0]) / np.float32(len(found))
