"""A second look: people who are small in a picture are a few pixels for the network; so it sees them alone, from nearer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from segmentarium.matting.matte import resized

LARGE = 0.6  # of the picture's longer side: a region whose surroundings take more than this is seen well already
AROUND = 0.5  # of the region's longer side: how much is shown on each side of it, for what was missed and for context
LEAST = 0.25  # of the picture's longer side: no crop is smaller
MOST = 4  # crops of a picture
TILE = 0.6  # of either side: where nobody was found, four overlapping quarters are looked at
SEEN = 0.002  # of the picture, above one half: less is nobody
FEATHER = 0.12  # of a crop's sides over which its answer fades in


@dataclass(frozen=True)
class Box:
    """Rows top..bottom - 1 and columns left..right - 1."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def longer(self) -> int:
        return max(self.bottom - self.top, self.right - self.left)

    def joined(self, other: Box) -> Box:
        return Box(
            min(self.top, other.top),
            min(self.left, other.left),
            max(self.bottom, other.bottom),
            max(self.right, other.right),
        )

    def meets(self, other: Box) -> bool:
        rows = self.top < other.bottom and other.top < self.bottom
        return rows and self.left < other.right and other.left < self.right


def look_closer(predict: Callable[[np.ndarray], np.ndarray], image: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """The probability (h, w) of a picture, better where people are small; as given where there is nothing to look at.

    predict      (a, b, C) uint8 -> (c, d) float32, 0..1, at any size
    image        (H, W, C) uint8, larger than the network saw it
    probability  (h, w) float32, 0..1: what the first look found

    Where the first look saw somebody small, the answer is that of a crop around them; where it saw nobody, the mean of what
    four overlapping quarters and the first look say.  The result then has the size of `image`.
    """
    size = image.shape[:2]
    seen = resized(probability, size)
    found = boxes(seen)
    nobody = not found and float((seen > 0.5).mean()) < SEEN
    if nobody:
        found = quarters(size)
    if not found:
        return probability
    total = np.ones(size, np.float32) if nobody else np.zeros(size, np.float32)
    answer = seen * total
    for box in found:
        place = slice(box.top, box.bottom), slice(box.left, box.right)
        weight = faded(box, size)
        answer[place] += weight * resized(predict(np.ascontiguousarray(image[place])), weight.shape)
        total[place] += weight
    rest = np.maximum(1 - total, 0)  # where no crop is sure of its answer, the first look's stands
    return (answer + rest * seen) / np.maximum(total, 1)


def boxes(probability: np.ndarray) -> list[Box]:
    """Around regions that are small in the picture (h, w), those that meet together; the largest first, at most `MOST`."""
    height, width = probability.shape
    side = max(height, width)
    count, _, facts, _ = cv2.connectedComponentsWithStats((probability > 0.5).astype(np.uint8), connectivity=8)
    found: list[Box] = []
    for left, top, w, h, area in facts[1:count].tolist():
        if area < SEEN / 10 * height * width:
            continue
        margin = max(AROUND * max(w, h), (LEAST * side - max(w, h)) / 2)
        box = Box(
            max(0, round(top - margin)),
            max(0, round(left - margin)),
            min(height, round(top + h + margin)),
            min(width, round(left + w + margin)),
        )
        while (met := next((other for other in found if other.meets(box)), None)) is not None:
            found.remove(met)
            box = box.joined(met)
        found.append(box)
    small = [box for box in found if box.longer <= LARGE * side]
    return sorted(small, key=lambda box: -box.longer)[:MOST]


def quarters(size: tuple[int, int]) -> list[Box]:
    """Four overlapping quarters of a picture (h, w)."""
    (height, width), (rows, columns) = size, (max(1, round(TILE * side)) for side in size)
    return [Box(top, left, top + rows, left + columns) for top in (0, height - rows) for left in (0, width - columns)]


def faded(box: Box, size: tuple[int, int]) -> np.ndarray:
    """Weights (h, w) of a crop's answer: 1 inside, fading to 0 at its borders that are not the picture's (height, width)."""
    ramps = []
    for start, stop, full in zip((box.top, box.left), (box.bottom, box.right), size, strict=True):
        length = stop - start
        place, ramp = np.arange(length) + 0.5, np.ones(length, np.float32)
        if start > 0:
            ramp = np.minimum(ramp, place / (FEATHER * length))
        if stop < full:
            ramp = np.minimum(ramp, (length - place) / (FEATHER * length))
        ramps.append(ramp.astype(np.float32))
    return np.outer(*ramps)
