"""The worst images of a run, in memory that does not grow with the number of images."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from segmentarium.labels import IGNORE_INDEX

RGB = tuple[int, int, int]

LONGEST = 480  # pixels of a kept picture's longer side

RIGHT, WRONG, IGNORED = (226, 226, 226), (214, 48, 49), (150, 150, 150)


@dataclass(order=True)
class BadImage:
    """One image and how well it was segmented.

    miou     mean over the classes that its label holds, 0..1
    picture  uint8 (h, w, 3); target and prediction: class indices uint8 (h, w), 255 = ignored; all three made smaller
    """

    miou: float
    index: int
    name: str
    picture: np.ndarray = field(compare=False, repr=False)
    target: np.ndarray = field(compare=False, repr=False)
    prediction: np.ndarray = field(compare=False, repr=False)

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


class WorstImages:
    """Keeps the `count` images of lowest score; among equals, the earlier ones."""

    def __init__(self, count: int) -> None:
        if count < 0:
            raise ValueError(f"worst is {count}; give the number of images to keep, 0 or more")
        self.count = count
        self._heap: list[tuple[float, int, BadImage]] = []  # the best of the worst on top

    def takes(self, miou: float) -> bool:
        """Whether an image of this score, met now, would be kept."""
        return self.count > 0 and (len(self._heap) < self.count or miou < -self._heap[0][0])

    def add(
        self, miou: float, index: int, name: str, picture: Image.Image, target: np.ndarray, prediction: np.ndarray
    ) -> None:
        """Offers an image; target and prediction are class indices uint8 (H, W), the picture may have any size."""
        if not self.takes(miou):
            return
        height, width = target.shape
        scale = min(1.0, LONGEST / max(height, width))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        small = [np.array(Image.fromarray(a).resize(size, Image.Resampling.NEAREST)) for a in (target, prediction)]
        shown = np.array(picture.convert("RGB").resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0))
        entry = (-miou, -index, BadImage(miou, index, name, shown, *small))
        if len(self._heap) < self.count:
            heapq.heappush(self._heap, entry)
        else:
            heapq.heapreplace(self._heap, entry)

    def __len__(self) -> int:
        return len(self._heap)

    def images(self) -> list[BadImage]:
        """The worst first."""
        return sorted(image for _, _, image in self._heap)
