"""OpenCV's key points beside the learnt ones: SIFT and ORB with descriptors; Harris, FAST and Shi-Tomasi, corners alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import cv2
import numpy as np
import torch

from segmentarium.checks import check_choice
from segmentarium.contracts import Keypoints
from segmentarium.contracts.point_kinds import local_maxima
from segmentarium.matching.neighbours import bits

NAMES = ("sift", "orb", "harris", "fast", "shi_tomasi")


class ClassicalDetector:
    """`detector(grey)`: a picture (H, W) uint8 -> its keypoints, best first.

    name     "sift", "orb", "harris", "fast" or "shi_tomasi"
    count    the best so many
    radius   pixels around a point within which there is no second: weaker ones are left out, as among the learnt ones
    metric   of its descriptors (`matching.neighbours.match`); None: it has none
    """

    metric: Literal["l2", "hamming"] | None

    def __init__(self, name: str, count: int = 1000, radius: int = 4) -> None:
        check_choice("name", name, NAMES)
        self.name, self.count, self.radius = name, count, radius
        self.metric = {"sift": "l2", "orb": "hamming"}.get(name)  # type: ignore[assignment]

    def __call__(self, grey: np.ndarray) -> Keypoints:
        if grey.ndim != 2 or grey.dtype != np.uint8:
            raise ValueError(f"the picture is {grey.dtype} {grey.shape}; give a grey one, (H, W) uint8")
        points, scores, descriptors = (self._described if self.metric else self._corners)(grey)
        kept = thinned(points, scores, self.radius, (grey.shape[0], grey.shape[1]))[: self.count]
        size = torch.tensor((grey.shape[1], grey.shape[0]))
        return Keypoints(
            torch.from_numpy(points[kept]), torch.from_numpy(scores[kept]), descriptors[torch.from_numpy(kept)], size
        )

    def _described(self, grey: np.ndarray) -> tuple[np.ndarray, np.ndarray, torch.Tensor]:
        create: Callable[..., cv2.Feature2D] = cv2.SIFT_create if self.name == "sift" else cv2.ORB_create  # type: ignore[attr-defined]
        # several of a place with their own angles and sizes: suppression leaves the strongest
        found, described = create(nfeatures=4 * self.count).detectAndCompute(grey, None)
        if described is None:
            width = 128 if self.name == "sift" else 256
            return np.zeros((0, 2), np.float32), np.zeros(0, np.float32), torch.zeros(0, width)
        points = np.array([key.pt for key in found], np.float32)
        scores = np.array([key.response for key in found], np.float32)
        return points, scores, torch.from_numpy(described) if self.name == "sift" else bits(described)

    def _corners(self, grey: np.ndarray) -> tuple[np.ndarray, np.ndarray, torch.Tensor]:
        if self.name == "fast":
            found = cv2.FastFeatureDetector_create(10).detect(grey, None)  # type: ignore[attr-defined]
            points = np.array([key.pt for key in found], np.float32).reshape(-1, 2)
            return points, np.array([key.response for key in found], np.float32), torch.zeros(len(points), 0)
        picture = grey.astype(np.float32) / 255
        response = cv2.cornerHarris(picture, 4, 3, 0.04) if self.name == "harris" else cv2.cornerMinEigenVal(picture, 3)
        peaks = local_maxima(torch.from_numpy(response)[None], 1, rounds=0)[0].numpy() & (response > 1e-8)
        y, x = peaks.nonzero()
        return np.stack((x, y), 1).astype(np.float32), response[peaks].astype(np.float32), torch.zeros(len(x), 0)


def thinned(points: np.ndarray, scores: np.ndarray, radius: int, size: tuple[int, int]) -> np.ndarray:
    """Which of the points (N, 2) stay, best first: none within `radius` pixels, along x and y, of a better one that stays."""
    order = np.argsort(-scores, kind="stable")
    height, width = size
    taken = np.zeros((height + 2 * radius + 1, width + 2 * radius + 1), bool)
    cells = np.rint(points).astype(int).clip(0, (width - 1, height - 1))
    kept = []
    for i in order:  # greedy, as SIFT and ORB give no map
        x, y = cells[i]
        if not taken[y + radius, x + radius]:
            kept.append(i)
            taken[y : y + 2 * radius + 1, x : x + 2 * radius + 1] = True
    return np.array(kept, dtype=np.int64)
