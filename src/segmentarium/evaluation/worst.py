"""The worst images of a run, in memory that does not grow with the number of images."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
from PIL import Image

from segmentarium.labels import IGNORE_INDEX

RGB = tuple[int, int, int]

LONGEST = 480  # pixels of a kept picture's longer side

RIGHT, WRONG, IGNORED = (226, 226, 226), (214, 48, 49), (150, 150, 150)


@dataclass
class BadImage:
    """One image and how well it was segmented.

    miou     mean over the classes that its label holds, 0..1
    picture  uint8 (h, w, 3); target and prediction: class indices uint8 (h, w), 255 = ignored; all three made smaller
    """

    miou: float
    index: int
    name: str
    picture: np.ndarray = field(repr=False)
    target: np.ndarray = field(repr=False)
    prediction: np.ndarray = field(repr=False)

    @property
    def caption(self) -> str:
        return f"{self.name}: mIoU {100 * self.miou:.2f}"

    def as_dict(self) -> dict[str, Any]:
        return {"name": self.name, "index": self.index, "miou": self.miou}

    def panels(self, palette: Sequence[RGB]) -> dict[str, Image.Image]:
        """Image, target, prediction and errors, side by side in one order."""
        colours = np.full((256, 3), IGNORED, np.uint8)
        colours[: len(palette)] = np.array(palette, np.uint8)
        errors = np.where((self.target == self.prediction)[..., None], np.array(RIGHT), np.array(WRONG))
        # The picture shines through, so that one sees where in it the errors lie.
        errors = (0.6 * errors + 0.4 * self.picture.mean(-1, keepdims=True)).astype(np.uint8)
        errors[self.target == IGNORE_INDEX] = IGNORED
        arrays = {
            "image": self.picture,
            "target": colours[self.target],
            "prediction": colours[self.prediction],
            "errors": errors,
        }
        return {name: Image.fromarray(array) for name, array in arrays.items()}


T = TypeVar("T")


class Worst(Generic[T]):
    """Keeps the `count` entries of lowest score, the worst first; among equals, the earlier ones."""

    def __init__(self, count: int) -> None:
        if count < 0:
            raise ValueError(f"worst is {count}; give the number of images to keep, 0 or more")
        self.count = count
        self._heap: list[tuple[float, int, T]] = []  # the best of the worst on top

    def takes(self, score: float) -> bool:
        """Whether an image of this score, met now, would be kept."""
        return self.count > 0 and (len(self._heap) < self.count or score < -self._heap[0][0])

    def add(self, score: float, index: int, entry: T) -> None:
        """Offers the entry of image number `index`."""
        if not self.takes(score):
            return
        if len(self._heap) < self.count:
            heapq.heappush(self._heap, (-score, -index, entry))
        else:
            heapq.heapreplace(self._heap, (-score, -index, entry))

    def __len__(self) -> int:
        return len(self._heap)

    def images(self) -> list[T]:
        """The worst first."""
        return [entry for _, _, entry in sorted(self._heap, key=lambda kept: kept[:2], reverse=True)]


def shrunk(picture: Image.Image, size: tuple[int, int]) -> tuple[tuple[int, int], np.ndarray]:
    """The (width, height) at which an image of `size` is kept, and the picture at that, uint8 (h, w, 3)."""
    scale = min(1.0, LONGEST / max(size))
    small = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    return small, np.array(picture.convert("RGB").resize(small, Image.Resampling.BILINEAR, reducing_gap=2.0))


def bad_image(
    miou: float, index: int, name: str, picture: Image.Image, target: np.ndarray, prediction: np.ndarray
) -> BadImage:
    """Of class indices uint8 (H, W) and a picture of any size, at the size at which it is kept."""
    size, shown = shrunk(picture, (target.shape[1], target.shape[0]))
    small = [np.array(Image.fromarray(a).resize(size, Image.Resampling.NEAREST)) for a in (target, prediction)]
    return BadImage(miou, index, name, shown, *small)
