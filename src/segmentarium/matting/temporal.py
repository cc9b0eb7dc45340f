"""Soft masks of a video that do not flicker: each is averaged with the one before, moved to where things are now."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from segmentarium.inference.guided import box
from segmentarium.inference.matte import resized
from segmentarium.matting.motion import flow, warp

MEMORY = 0.12  # seconds after which an old mask counts 1/e
LIKENESS = 0.05  # difference of brightness (0..1) at which the old mask counts 1/e
CUT = 0.12  # mean difference of two frames, after motion, above which they are different scenes
FLOW_SIDE = 144  # longer side of the frames in which motion is found
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
        self._grey: Tensor | None = None
        self._mask: Tensor | None = None
        self._looked = 0.0

    def __call__(self, look: Callable[[], Tensor], grey: Tensor, seconds: float) -> Tensor:
        """The steady mask, (h, w) float32.

        look     gives the network's mask of this frame, (h, w) float32, 0..1; not called where it is not needed
        grey     (a, b) float32, 0..1: the frame's brightness at any size, the same for all frames
        seconds  time of the frame
        """
        side = max(grey.shape)
        small = tuple(max(1, round(length * min(1.0, FLOW_SIDE / side))) for length in grey.shape)
        grey = torch.nn.functional.interpolate(grey[None, None], small, mode="bilinear", antialias=True)[0, 0]
        mask = self._follow(look, grey, seconds)
        if mask is None:
            mask, self._looked = look(), seconds
        self._grey, self._mask = grey, mask
        return mask

    def _follow(self, look: Callable[[], Tensor], grey: Tensor, seconds: float) -> Tensor | None:
        """The mask with what the old one tells; None where that is nothing."""
        before, old, age = self._grey, self._mask, max(0.0, seconds - self._looked)
        if before is None or old is None or before.shape != grey.shape:
            return None
        moved = flow(before, grey)
        changed = (warp(before[None], moved)[0] - grey).abs_()
        if float(changed.mean()) >= CUT:
            return None
        changed = box(changed[None], 1)[0]
        news = float((changed > LIKENESS).float().mean())
        large = torch.nn.functional.interpolate(moved[None], tuple(old.shape), mode="bilinear", align_corners=False)[0]
        there = warp(old[None], large.mul_(old.shape[1] / grey.shape[1]))[0]
        if age <= self.rest and news <= NEWS:
            return there
        mask, self._looked = look(), seconds
        if mask.shape != old.shape:
            return mask
        keep = torch.exp(-(changed / LIKENESS).square_()) * math.exp(-age / MEMORY)
        return torch.lerp(mask, there, resized(keep, (mask.shape[0], mask.shape[1])))
