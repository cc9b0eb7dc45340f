"""Flicker: how much a matte changes from frame to frame where it should not."""

from __future__ import annotations

import numpy as np

STILL = 6 / 255  # largest change of brightness of a pixel that stands still; what sensors and codecs add stays below


class Flicker:
    """Mean change of alpha per frame, in units of alpha (0..1), over a clip; in constant memory.

        flicker = Flicker()
        for frame, alpha in clip:
            flicker.update(alpha, frame)
        flicker.compute()

    With the true alpha, all pixels count and the change of the true alpha is taken off (the measure dtSSD of Erofeev et
    al., Perceptually Motivated Benchmark for Video Matting, BMVC 2015, with absolute differences).  Without it, the pixels
    count whose brightness stands still in the picture: nothing moves there, so alpha should not either.
    """

    def __init__(self) -> None:
        self._alpha: np.ndarray | None = None
        self._other: np.ndarray | None = None
        self._total, self._pixels = 0.0, 0

    def update(self, alpha: np.ndarray, frame: np.ndarray | None = None, truth: np.ndarray | None = None) -> None:
        """The next frame's alpha (H, W), uint8 or float in 0..1, with its picture (H, W[, 3]) uint8 or its true alpha."""
        if (frame is None) == (truth is None):
            raise ValueError("give the frame or the true alpha, one of them")
        now = _unit(alpha)
        if truth is not None:
            other = _unit(truth)
        else:
            assert frame is not None
            grey = frame if frame.ndim == 2 else frame.mean(axis=2)
            other = np.asarray(grey, np.float32) / 255
        if other.shape != now.shape:
            raise ValueError(f"alpha is {now.shape} and its frame or truth {other.shape}; give the same size")
        if self._alpha is not None and self._other is not None:
            change = now - self._alpha
            if truth is not None:
                self._total += float(np.abs(change - (other - self._other)).sum())
                self._pixels += change.size
            else:
                still = np.abs(other - self._other) < STILL
                self._total += float(np.abs(change[still]).sum())
                self._pixels += int(still.sum())
        self._alpha, self._other = now, other

    def compute(self) -> float:
        """The mean over all pixels that counted; 0 where none did."""
        return self._total / self._pixels if self._pixels else 0.0


def _unit(alpha: np.ndarray) -> np.ndarray:
    return alpha.astype(np.float32) / (255 if alpha.dtype == np.uint8 else 1)
