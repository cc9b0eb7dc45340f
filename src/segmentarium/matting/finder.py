"""What portraits ask of a network: where the foreground of a picture is, averaged over several views of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from segmentarium.matting.matte import resized
from segmentarium.preprocessing import Preprocessing


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


class ForegroundFinder:
    """What portraits ask of a predictor.

    foreground  index of the class that is looked for; None: the model has several, and none was named
    expected    pictures to come, where that is known
    """

    model_name: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    foreground: int | None
    expected: int | None = None

    def model_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) at which the network sees a picture of this (height, width)."""
        return self.preprocessing.size_of(size)

    def probability(self, image: np.ndarray, *, flip: bool = False, scales: Sequence[float] = (1.0,)) -> np.ndarray:
        """(h, w) float32: probability of the foreground of (H, W, C) uint8, at the size at which the network sees it.

        flip    averages with the mirrored picture
        scales  averages over the picture at these factors of that size
        """
        if self.foreground is None:
            raise ValueError(no_foreground(self.classes))
        given = (image.shape[0], image.shape[1])
        views = [self.preprocessing.size_of(given, scale) for scale in scales]
        return average_views(self._predict, image, self.model_size(given), flip=flip, views=views)

    def _predict(self, view: np.ndarray) -> np.ndarray:
        """The probability (h, w) float32 of one view (h, w, C) uint8."""
        raise NotImplementedError

    def threads(self, count: int) -> contextlib.AbstractContextManager[None]:
        """Within a `with` block the network takes `count` threads instead of one for each core."""
        raise NotImplementedError

    def facts(self, seconds: float) -> dict[str, Any]:
        """What the JSON says of how a picture was computed."""
        raise NotImplementedError


def average_views(
    predict: Callable[[np.ndarray], np.ndarray],
    image: np.ndarray,
    size: tuple[int, int],
    *,
    flip: bool = False,
    views: Sequence[tuple[int, int]],
) -> np.ndarray:
    """(h, w) float32: the mean of what `predict` gives of several views of one picture.

    predict  (h, w, C) uint8 -> (h, w) float32
    image    (H, W, C) uint8
    size     (h, w) of the result
    flip     mirrored, too
    views    (h, w) of each view
    """
    found: list[np.ndarray] = []
    for seen in views:
        view = scaled(image, seen)
        found.append(resized(predict(view), size))
        if flip:
            found.append(resized(predict(view[:, ::-1]), size)[:, ::-1])
    return sum(found[1:], found[0]) / np.float32(len(found))


def no_foreground(classes: Sequence[str]) -> str:
    return (
        "there is nothing to cut out: the model has several classes and none of them was named as the foreground; "
        f"give foreground=CLASS (--foreground CLASS), one of {', '.join(classes)}"
    )


def foreground_class(wanted: str | int | None, classes: Sequence[str]) -> int | None:
    """The index of the class `wanted`, a name or an index; of None class 1 of two, and of more classes none."""
    if wanted is None:
        return 1 if len(classes) == 2 else None
    if isinstance(wanted, str) and wanted in classes:
        return classes.index(wanted)
    if not isinstance(wanted, str) and 0 <= wanted < len(classes):
        return int(wanted)
    if isinstance(wanted, str) and wanted.isdigit() and int(wanted) < len(classes):
        return int(wanted)
    raise ValueError(
        f"foreground is {wanted!r}; give one of {', '.join(classes)}, or an index from 0 to {len(classes) - 1}"
    )
