"""Boxes as detectors count with them: x0, y0, x1, y1 in pixels of the image, and what a regression says of them.

A regression moves a box's centre by shares of its sides and scales the sides by powers of e (R-CNN, 1311.2524, appendix C).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

FARTHEST = math.log(1000 / 16)  # a side is scaled by no more than e to this, and no less
PLAIN = (1.0, 1.0, 1.0, 1.0)


def centres_and_sides(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """(…, 4) -> (…, 2) centres x, y, and (…, 2) width, height"""
    low, high = boxes[..., :2], boxes[..., 2:]
    return (low + high) / 2, high - low


def encode(boxes: Tensor, anchors: Tensor, deviations: Sequence[float] = PLAIN) -> Tensor:
    """(N, 4) boxes, each seen from its anchor (N, 4) -> (N, 4): what a regression should say, divided by `deviations`."""
    (centre, sides), (from_centre, from_sides) = centres_and_sides(boxes), centres_and_sides(anchors)
    deltas = torch.cat(((centre - from_centre) / from_sides, (sides / from_sides).log()), -1)
    return deltas / deltas.new_tensor(deviations)


def decode(deltas: Tensor, anchors: Tensor, deviations: Sequence[float] = PLAIN) -> Tensor:
    """(…, 4) of a regression and the boxes (…, 4) that it speaks of -> the boxes that it means.  float32."""
    deltas = deltas.float() * torch.tensor(deviations, device=deltas.device)
    centre, sides = centres_and_sides(anchors.float())
    centre = centre + deltas[..., :2] * sides
    sides = sides * deltas[..., 2:].clamp(-FARTHEST, FARTHEST).exp()
    return torch.cat((centre - sides / 2, centre + sides / 2), -1)


def clip(boxes: Tensor, size: Sequence[int]) -> Tensor:
    """(…, 4), cut off at the edges of an image of (H, W) = `size`."""
    height, width = size
    x, y = boxes[..., 0::2].clamp(0, width), boxes[..., 1::2].clamp(0, height)
    return torch.stack((x[..., 0], y[..., 0], x[..., 1], y[..., 1]), -1)


def areas(boxes: Tensor) -> Tensor:
    """(…, 4) -> (…)"""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def share_counted(boxes: Tensor, valid: Tensor) -> Tensor:
    """(N, 4) boxes and valid (H, W) bool -> (N,) in [0, 1]: how much of each box lies on pixels that count.

    Boxes are rounded to whole pixels; one that has none counts not at all, and what reaches beyond the image counts not either.
    """
    sums = torch.zeros(valid.shape[0] + 1, valid.shape[1] + 1, dtype=torch.int32, device=valid.device)
    sums[1:, 1:] = valid.int().cumsum(0, dtype=torch.int32).cumsum(1, dtype=torch.int32)
    x0, y0, x1, y1 = clip(boxes.round(), valid.shape).long().unbind(-1)
    counted = sums[y1, x1] - sums[y0, x1] - sums[y1, x0] + sums[y0, x0]
    whole = areas(boxes.round()).clamp(min=1)
    return counted.float() / whole
