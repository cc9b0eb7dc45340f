"""Boxes that stand turned about the vertical: corners, exact overlaps seen from above and in space, suppression.

A box is x, y, z of its centre, length, width, height, and the angle of its length from the x axis in radians; further values are
passed over.  Everything is in plain tensor operations; areas are computed in float64, so that they are exact to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

TOUCHING = 1e-9  # of boxes of metres: sides that lie this close are taken for one


def as_in_earlier_code(boxes: Tensor) -> Tensor:
    """Boxes with the conventions of det3d and of mmdetection3d before 1.0, and back: width before length, and an angle that
    runs clockwise from the negative y axis.  (..., 7+)"""
    order = [0, 1, 2, 4, 3, 5]
    return torch.cat((boxes[..., order], -boxes[..., 6:7] - math.pi / 2, boxes[..., 7:]), -1)


def corners(boxes: Tensor) -> Tensor:
    """(..., 7) -> (..., 4, 2): x, y of the corners seen from above, counter-clockwise, the front left one first."""
    signs = boxes.new_tensor(((0.5, 0.5), (-0.5, 0.5), (-0.5, -0.5), (0.5, -0.5)))
    local = signs * boxes[..., None, 3:5]
    cos, sin = boxes[..., 6].cos()[..., None], boxes[..., 6].sin()[..., None]
    x, y = local.unbind(-1)
    return boxes[..., None, :2] + torch.stack((x * cos - y * sin, x * sin + y * cos), -1)


def corners_3d(boxes: Tensor) -> Tensor:
    """(..., 7) -> (..., 8, 3): the four corners of the floor in the order of `corners`, then those of the roof."""
    flat = corners(boxes)
    half = boxes[..., 5, None, None] / 2
    middle = boxes[..., 2, None, None].expand(*flat.shape[:-1], 1)
    return torch.cat((torch.cat((flat, middle - half), -1), torch.cat((flat, middle + half), -1)), -2)


def inside_boxes(points: Tensor, boxes: Tensor) -> Tensor:
    """(N, 3+) points and (M, 7) boxes -> (N, M) bool: the point lies in the box or on its side."""
    offset = points[:, None, :3] - boxes[None, :, :3]
    cos, sin = boxes[:, 6].cos(), boxes[:, 6].sin()
    along = offset[..., 0] * cos + offset[..., 1] * sin
    across = offset[..., 1] * cos - offset[..., 0] * sin
    local = torch.stack((along, across, offset[..., 2]), -1).abs()
    return (local <= boxes[:, 3:6] / 2).all(-1)


def _along_sides(a: Tensor, b: Tensor, margin: float) -> Tensor:
    """Half the integral of x dy - y dx along those parts of a's sides that lie in b, grown by `margin` on each side: (P,).

    Both (P, 7).  The same of b's sides in a added, it is the area that the two share (Green).
    """
    start = corners(a)
    step = start.roll(-1, 1) - start
    cos, sin = b[:, 6].cos()[:, None], b[:, 6].sin()[:, None]

    def in_b(x: Tensor, y: Tensor) -> Tensor:
        return torch.stack((x * cos + y * sin, y * cos - x * sin), -1)

    begins = in_b(*(start - b[:, None, :2]).unbind(-1))
    moves = in_b(*step.unbind(-1))
    limit = (b[:, None, 3:5] / 2 + margin).expand_as(begins)
    # the shares of each side between which it lies within the limits of both axes
    still = moves == 0
    slope = moves.masked_fill(still, 1)
    one, two, within = (-limit - begins) / slope, (limit - begins) / slope, begins.abs() <= limit
    enter = torch.where(still, torch.where(within, 0.0, 2.0), torch.minimum(one, two)).amax(-1).clamp(min=0)
    leave = torch.where(still, torch.where(within, 1.0, -1.0), torch.maximum(one, two)).amin(-1).clamp(max=1)
    # of a straight piece it is the cross product of its start, or any other point on it, with its step
    cross = start[..., 0] * step[..., 1] - start[..., 1] * step[..., 0]
    return ((leave - enter).clamp(min=0) * cross).sum(-1) / 2


def shared_area(a: Tensor, b: Tensor) -> Tensor:
    """(P, 7) and (P, 7) -> (P,) float64: the area that the boxes of each pair share seen from above."""
    a, b = a[:, :7].double(), b[:, :7].double()
    origin = torch.cat((b[:, :2], torch.zeros_like(b[:, 2:])), 1)  # near zero coordinates round best
    a, b = a - origin, b - origin
    # where sides lie on each other one of them must count, and not both: so a's in b grown, b's in a shrunk
    area = _along_sides(a, b, TOUCHING) + _along_sides(b, a, -TOUCHING)
    return torch.minimum(area.clamp(min=0), torch.minimum(a[:, 3] * a[:, 4], b[:, 3] * b[:, 4]))


def _pairs(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers of the pairs whose surrounding circles meet: few, of boxes in a street."""
    reach = a[:, None, 3:5].norm(dim=-1) + b[None, :, 3:5].norm(dim=-1)
    near = (a[:, None, :2] - b[None, :, :2]).norm(dim=-1) * 2 <= reach
    first, second = near.nonzero(as_tuple=True)
    return first, second


def _ratio(shared: Tensor, a: Tensor, b: Tensor) -> Tensor:
    together = a + b - shared
    return shared / together.masked_fill(together <= 0, 1)  # boxes without extent overlap nothing


def iou_from_above(a: Tensor, b: Tensor) -> Tensor:
    """(N, 7) and (M, 7) -> (N, M): shared area over joint area."""
    result = a.new_zeros(len(a), len(b))
    first, second = _pairs(a, b)
    result[first, second] = _shares(a[first], b[second]).to(result.dtype)
    return result


def _shares(a: Tensor, b: Tensor) -> Tensor:
    """(P, 7) and (P, 7) -> (P,) float64: of each pair shared area over joint area."""
    a, b = a.double(), b.double()
    return _ratio(shared_area(a, b), a[:, 3] * a[:, 4], b[:, 3] * b[:, 4])


def iou_3d(a: Tensor, b: Tensor) -> Tensor:
    """(N, 7) and (M, 7) -> (N, M): shared volume over joint volume."""
    result = a.new_zeros(len(a), len(b))
    first, second = _pairs(a, b)
    one, two = a[first].double(), b[second].double()
    top = torch.minimum(one[:, 2] + one[:, 5] / 2, two[:, 2] + two[:, 5] / 2)
    bottom = torch.maximum(one[:, 2] - one[:, 5] / 2, two[:, 2] - two[:, 5] / 2)
    shared = shared_area(one, two) * (top - bottom).clamp(min=0)
    result[first, second] = _ratio(shared, one[:, 3:6].prod(1), two[:, 3:6].prod(1)).to(result.dtype)
    return result


def iou_upright(a: Tensor, b: Tensor) -> Tensor:
    """(N, 7) and (M, 7) -> (N, M): overlap after each box is turned to the nearest axis; what anchors are matched by."""

    def edges(boxes: Tensor) -> tuple[Tensor, Tensor]:
        across = (torch.remainder(boxes[:, 6] + math.pi / 2, math.pi) - math.pi / 2).abs() > math.pi / 4
        size = torch.where(across[:, None], boxes[:, [4, 3]], boxes[:, 3:5])
        return boxes[:, :2] - size / 2, boxes[:, :2] + size / 2

    (a_low, a_high), (b_low, b_high) = edges(a), edges(b)
    side = torch.minimum(a_high[:, None], b_high) - torch.maximum(a_low[:, None], b_low)
    shared = side.clamp(min=0).prod(-1)
    return _ratio(shared, (a[:, 3] * a[:, 4])[:, None], (b[:, 3] * b[:, 4])[None])


def _greedy(hides: Tensor) -> Tensor:
    """hides (N, N) bool, best first: i would suppress j -> (N,) bool, what is left when only what is left suppresses.

    Each round is right for one more of a chain of boxes that hide each other, and most chains are short.
    """
    hides = hides.triu(1)
    kept = torch.ones(len(hides), dtype=torch.bool, device=hides.device)
    while True:
        again = ~(hides & kept[:, None]).any(0)
        if torch.equal(again, kept):
            return kept
        kept = again


def suppress(boxes: Tensor, scores: Tensor, overlap: float, groups: Tensor | None = None) -> Tensor:
    """Numbers of the boxes (N, 7) that no better one overlaps by more than `overlap` seen from above, best first.

    groups   (N,): only boxes of one group suppress each other; None: all do
    """
    order = scores.argsort(descending=True, stable=True)
    boxes = boxes[order]
    better, worse = _pairs(boxes, boxes)
    wanted = better < worse
    if groups is not None:
        wanted &= groups[order[better]] == groups[order[worse]]
    better, worse = better[wanted], worse[wanted]
    hides = torch.zeros(len(boxes), len(boxes), dtype=torch.bool, device=boxes.device)
    hides[better, worse] = _shares(boxes[better], boxes[worse]) > overlap
    return order[_greedy(hides)]


def suppress_near(
    boxes: Tensor, scores: Tensor, radius: Tensor | Sequence[float], groups: Tensor | None = None
) -> Tensor:
    """The same by distance: a box goes whose centre is at most the radius (N,), in metres, of a better one away."""
    order = scores.argsort(descending=True, stable=True)
    away = (boxes[order, None, :2] - boxes[order, :2]).norm(dim=-1)
    hides = away <= torch.as_tensor(radius, dtype=boxes.dtype, device=boxes.device)[order, None]
    if groups is not None:
        hides &= groups[order, None] == groups[order]
    return order[_greedy(hides)]
