"""Which object each box stands for in training, and which boxes training looks at."""

from __future__ import annotations

import torch
from torch import Tensor

from segmentarium.layers.boxes import share_counted

NOTHING, NEITHER = -1, -2
AT_A_TIME = 2**24  # overlaps that are held


def assign(
    boxes: Tensor, truth: Tensor, positive: float, negative: float, *, least: float | None = None, valid: Tensor | None
) -> Tensor:
    """(M, 4) boxes, (N, 4) labelled ones -> (M,) int64: which of them each box stands for; -1: none; -2: it does not count.

    A box stands for the object with which its intersection over union is greatest, if that is `positive` or more; for nothing if
    it is below `negative`; else it does not count.  Neither does one that stands for nothing and lies for more than a half on
    pixels that do not count.

    least   each object also gets the boxes that overlap it most, if that is so much or more (Faster R-CNN); None: it does not.
            Such a box still stands for the object that itself overlaps most, as in Detectron's lineage
    valid   (H, W) bool: pixels that count; None: all
    """
    from torchvision.ops import box_iou

    found = boxes.new_full((len(boxes),), NOTHING, dtype=torch.int64)
    if len(truth):
        parts = boxes.split(max(1, AT_A_TIME // len(truth)))
        overlaps = [box_iou(truth, part) for part in parts] if len(parts) == 1 else None
        best, which = _joined([(overlaps[0] if overlaps else box_iou(truth, part)).max(0) for part in parts])
        found = torch.where(best >= positive, which, NEITHER).where(best >= negative, NOTHING)
        if least is not None:
            tops = [(overlaps[0] if overlaps else box_iou(truth, part)).amax(1) for part in parts]
            top = torch.stack(tops).amax(0)[:, None]
            ours = [
                ((iou == top) & (iou >= least) & (iou > 0)).any(0)
                for iou in (overlaps or (box_iou(truth, part) for part in parts))
            ]
            found = torch.where(torch.cat(ours), which, found)
    if valid is not None and not bool(valid.all()):
        found = torch.where((found == NOTHING) & (share_counted(boxes, valid) < 0.5), NEITHER, found)
    return found


def _joined(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    best, which = zip(*parts, strict=True)
    return torch.cat(best), torch.cat(which)


def sample(found: Tensor, count: int, share: float) -> Tensor:
    """What `assign` says -> indices of at most `count` boxes, drawn: those that stand for an object first, at most `share` of
    them, and the rest such as stand for nothing."""
    objects, nothing = (found >= 0).nonzero()[:, 0], (found == NOTHING).nonzero()[:, 0]
    objects = _drawn(objects, int(count * share))
    return torch.cat((objects, _drawn(nothing, count - len(objects))))


def _drawn(indices: Tensor, count: int) -> Tensor:
    return indices[torch.randperm(len(indices), device=indices.device)[:count]] if len(indices) > count else indices
