"""Soft masks of a video that do not flicker: each is averaged with the one before, moved to where things are now."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from segmentarium.inference.guided import box
from segmentarium.inference.matte import resized
from segmentarium.matting.motion import flow, warp

MEMORY = 0.12  # seconds after which an old mask counts 1/e
LIKENESS = 0.05  # difference of brightness (0..1) at which the old mask counts 1/e
CUT = 0.12  # mean difference of two frames, after motion, above which they are different scenes
FLOW_SIDE = 144  # longer side of the frames in which motion is found


class TemporalFilter:
    """A filter over time that follows motion and forgets where the picture itself has changed.

        steady = TemporalFilter()
        for seconds, grey, chance in frames:
            chance = steady(chance, grey, seconds)

    The old mask is moved along the flow.  Where the moved old frame looks like the new one, the network has seen the same
    thing twice and its two answers are averaged; where it does not (something was uncovered, a hand came in, the scene was
    cut), the new answer stands.
    """

    def __init__(self) -> None:
        self._grey: Tensor | None = None
        self._chance: Tensor | None = None
        self._seconds = 0.0

    def __call__(self, chance: Tensor, grey: Tensor, seconds: float) -> Tensor:
        """The steady mask, (h, w) float32.

        chance   (h, w) float32, 0..1, of this frame
        grey     (a, b) float32, 0..1: the frame's brightness at any size, the same for all frames
        seconds  time of the frame
        """
        side = max(grey.shape)
        small = tuple(max(1, round(length * min(1.0, FLOW_SIDE / side))) for length in grey.shape)
        grey = torch.nn.functional.interpolate(grey[None, None], small, mode="bilinear", antialias=True)[0, 0]
        before, old, passed = self._grey, self._chance, seconds - self._seconds
        if before is not None and old is not None and before.shape == grey.shape and old.shape == chance.shape:
            moved = flow(before, grey)
            changed = (warp(before[None], moved)[0] - grey).abs_()
            if float(changed.mean()) < CUT:
                keep = torch.exp(-(box(changed[None], 1)[0] / LIKENESS).square_()) * math.exp(
                    -max(0.0, passed) / MEMORY
                )
                factor = chance.shape[1] / grey.shape[1]
                large = torch.stack([resized(plane, (chance.shape[0], chance.shape[1])) for plane in (*moved, keep)])
                there = warp(old[None], large[:2] * factor)[0]
                chance = torch.lerp(chance, there, large[2])
        self._grey, self._chance, self._seconds = grey, chance, seconds
        return chance
