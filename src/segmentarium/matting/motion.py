"""Where each pixel of a frame was in the frame before, by OpenCV's dense inverse search (Kroeger et al., ECCV 2016)."""

from __future__ import annotations

import cv2
import numpy as np

LEAST = 16  # pixels of the shorter side, below which nothing is searched: less than two of its patches


class Motion:
    """Finds flow between frames of one clip."""

    def __init__(self) -> None:
        self._search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        self._search.setFinestScale(0)  # frames are small already

    def flow(self, before: np.ndarray, now: np.ndarray) -> np.ndarray:
        """(h, w, 2) float32, pixels in x and y: `warp(before, flow)` is like `now`.  Both (h, w) uint8."""
        if min(now.shape) < LEAST:
            return np.zeros((*now.shape, 2), np.float32)
        return self._search.calc(now, before, np.zeros((*now.shape, 2), np.float32))


def warp(plane: np.ndarray, displacement: np.ndarray) -> np.ndarray:
    """(h, w) taken at x + displacement (h, w, 2), bilinear; beyond the border its nearest pixel."""
    height, width = plane.shape
    x = displacement[..., 0] + np.arange(width, dtype=np.float32)
    y = displacement[..., 1] + np.arange(height, dtype=np.float32)[:, None]
    return cv2.remap(plane, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
