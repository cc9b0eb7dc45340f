"""Soft masks of a video that do not flicker: each is averaged with the one before, moved to where things are now."""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np

from segmentarium.matting.matte import resized
from segmentarium.matting.motion import Motion, warp

MEMORY = 0.12  # seconds after which an old mask counts 1/e
LIKENESS = 0.05  # difference of brightness (0..1) at which the old mask counts 1/e
CUT = 0.12  # mean difference of two frames, after motion, above which they are different scenes
FLOW_SIDE = 96  # longer side of the frames in which motion is found
REST = 0.07  # seconds for which a mask may be moved on without a new one
NEWS = 0.01  # share of a frame that differs by more than `LIKENESS`, after motion, above which a new mask is needed


class TemporalFilter:
    """A filter over time that follows motion and forgets where the picture itself has changed.

        steady = TemporalFilter()
        for seconds, grey, frame in frames:
            mask = steady(lambda: network(frame), grey, seconds)

    The old mask is moved along the flow.  Where the moved old frame looks like the new one, the network has seen the same
    thing twice and its two answers are averaged; where it does not (something was uncovered, a hand came in, the scene was
    cut), the new answer stands.  Frames that motion explains altogether do not need the network: their mask is the moved
    one, for `rest` seconds at most; 0: the network sees every frame.
    """

    def __init__(self, rest: float = REST) -> None:
        self.rest = rest
        self._motion = Motion()
        self._grey: np.ndarray | None = None
        self._mask: np.ndarray | None = None
        self._predicted = 0.0

    def __call__(self, predict: Callable[[], np.ndarray], grey: np.ndarray, seconds: float) -> np.ndarray:
        """The steady mask, (h, w) float32.

        predict  gives the network's mask of this frame, (h, w) float32, 0..1; not called where it is not needed
        grey     (a, b) uint8: the frame's brightness at any size, the same for all frames
        seconds  time of the frame
        """
        height, width = (max(1, round(side * min(1.0, FLOW_SIDE / max(grey.shape)))) for side in grey.shape)
        grey = cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA)
        mask = self._follow(predict, grey, seconds)
        if mask is None:
            mask, self._predicted = predict(), seconds
        self._grey, self._mask = grey, mask
        return mask

    def _follow(self, predict: Callable[[], np.ndarray], grey: np.ndarray, seconds: float) -> np.ndarray | None:
        """The mask with what the old one tells; None where that is nothing."""
        before, old, age = self._grey, self._mask, max(0.0, seconds - self._predicted)
        if before is None or old is None or before.shape != grey.shape:
            return None
        moved = self._motion.flow(before, grey)
        changed = cv2.absdiff(warp(before, moved), grey) * np.float32(1 / 255)
        if float(changed.mean()) >= CUT:
            return None
        changed = cv2.blur(changed, (3, 3))
        news = float((changed > LIKENESS).mean())
        large = cv2.resize(moved, (old.shape[1], old.shape[0])) * np.float32(old.shape[1] / grey.shape[1])
        there = warp(old, large)
        if age <= self.rest and news <= NEWS:
            return there
        mask, self._predicted = predict(), seconds
        if mask.shape != old.shape:
            return mask
        keep = np.exp(-((changed / np.float32(LIKENESS)) ** 2)) * np.float32(math.exp(-age / MEMORY))
        return mask + resized(keep, mask.shape) * (there - mask)
