"""What the stages of a cascade learn from: regions that are drawn, and what their boxes and masks should be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from segmentarium.instances.sampling import assign, sample
from segmentarium.layers.boxes import encode
from segmentarium.losses.federated import known_of
from segmentarium.losses.segments import Segments

MASKS_AT_A_TIME = 32

Truth = Sequence[tuple[Segments, Tensor]]  # of each picture: its segments, and their boxes (N, 4)


class Chosen(NamedTuple):
    """Regions to learn from: (S, 5), the object of its picture that each stands for (-1: none), its label (K: none), and whether
    it is a labelled box itself."""

    rois: Tensor
    objects: Tensor
    labels: Tensor
    given: Tensor


@torch.no_grad()
def choose(rois: Tensor, truth: Truth, *, overlap: float, count: int, nothing: int) -> Chosen:
    """Of regions (M, 5) and the labelled boxes, `count` of each picture, a quarter of them such as stand for an object.

    overlap   from which on a region stands for an object; below, for nothing
    nothing   the label of those
    """
    parts = []
    for i, (segments, boxes) in enumerate(truth):
        own = torch.cat((rois[rois[:, 0] == i, 1:], boxes))
        objects = assign(own, boxes, overlap, overlap, valid=segments.valid)
        picked = sample(objects, count, 0.25)
        objects = objects[picked]
        labels = torch.full_like(objects, nothing)
        labels[objects >= 0] = segments.labels[objects[objects >= 0]]
        image = own.new_full((len(picked), 1), i)
        given = picked >= len(own) - len(boxes)
        parts.append(Chosen(torch.cat((image, own[picked]), 1), objects, labels, given))
    return Chosen(*map(torch.cat, zip(*parts, strict=True)))


def box_targets(chosen: Chosen, truth: Truth, deviations: Sequence[float]) -> Tensor:
    """-> (S, 4): what the regression should say of each region; zeros where it stands for nothing"""
    targets = torch.zeros_like(chosen.rois[:, 1:])
    for i, (_, boxes) in enumerate(truth):
        mine = (chosen.rois[:, 0] == i) & (chosen.objects >= 0)
        targets[mine] = encode(boxes[chosen.objects[mine]], chosen.rois[mine, 1:], deviations)
    return targets


def answers(chosen: Chosen, truth: Truth, num_classes: int) -> Tensor:
    """-> bool (S, num_classes): of which classes it is known whether each region shows them: those that its picture's lists
    answer, and its own."""
    lists = [
        chosen.labels.new_ones(num_classes, dtype=torch.bool) if one.answered is None else one.answered
        for one, _ in truth
    ]
    return known_of(chosen.labels, chosen.rois[:, 0].long(), torch.stack(lists))


@torch.no_grad()
def mask_targets(
    rois: Tensor, objects: Tensor, truth: Truth, side: int, *, aligned: bool, soft: bool
) -> tuple[Tensor, Tensor]:
    """Regions (P, 5) and the object of each -> (P, side, side): what its mask should be, and which cells count.

    aligned   as of `RoIAlign`
    soft      a cell's target is the share of it that the object has; else yes or no
    """
    from torchvision.ops import roi_align

    def cut(masks: Tensor, boxes: Tensor, number: Tensor) -> Tensor:
        given = torch.cat((number.to(boxes.dtype)[:, None], boxes), 1)
        return roi_align(masks[:, None].to(boxes.dtype), given, (side, side), 1.0, -1, aligned)[:, 0]

    targets, weights = rois.new_zeros(len(rois), side, side), rois.new_ones(len(rois), side, side)
    for i, (segments, _) in enumerate(truth):
        mine = rois[:, 0] == i
        for some in objects[mine].unique().split(MASKS_AT_A_TIME):
            (own,) = torch.where(mine & torch.isin(objects, some))
            targets[own] = cut(segments.masks[some], rois[own, 1:], torch.searchsorted(some, objects[own]))
        if segments.valid is not None and not bool(segments.valid.all()):
            counted = cut(segments.valid[None], rois[mine, 1:], torch.zeros_like(objects[mine]))
            weights[mine] = (counted >= 0.5).to(rois.dtype)
    return (targets if soft else (targets >= 0.5).to(rois.dtype)), weights
