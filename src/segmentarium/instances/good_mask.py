"""A good box is not a guarantee of a good mask: masks of thin things are cut out where they are still to be seen.

The winners of LVIS 2020 train in two stages.  First a hybrid task cascade with equalisation loss, repeat-factor sampling, mosaic,
rotation, scale jitter, and labels that a teacher adds (`training/self_training.py`).  Then, with the trunk frozen, the box
classifier by balanced groups, and the mask head for what boxes hide: a thin mask in a large box is cut out of a coarse level, as
only the box's scale decides, and of its cells next to none are foreground.

No formula of the second stage is public, and no code.  Ours:
- **Level.**  FPN's, of the box's scale times min(1, s / s0)^(1/2), s the share of the box that the mask fills and s0 = 0.5:
  the side of the square that has the mask's area, which for masks that fill half their box or more is the box's own scale.
  A region is never seen coarser than before, and the thinner its mask the finer.  In training s is the label's; at inference
  that of the mask that the head gives at the usual level, and regions whose level is another are looked at again.
- **Loss.**  In each region the cross entropies of foreground and background are averaged by themselves and weighed by the root
  of their shares: between the plain mean, in which a thin mask hardly counts, and halves, which paint it too thick.

Published: LVIS v1 val mask AP 41.5, test-dev 41.2, of all that they did together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.layers.boxes import areas
from segmentarium.layers.nms import indices
from segmentarium.layers.roi_align import FINEST, RoIAlign
from segmentarium.losses.base import safe_divide
from segmentarium.losses.segments import Segments

FILLED = 0.5  # share of its box that a mask must fill to be seen where the box alone would be
BALANCE = 0.5


class RoIAlignByShare(RoIAlign):
    """RoIAlign that also knows how much of each region its mask fills."""

    def levels(self, rois: Tensor, shares: Tensor | None = None) -> Tensor:
        """Regions (M, 5), and the share (M,) in [0, 1] of each that its mask fills -> (M,) int64 level; None: by size alone."""
        if shares is None:
            return super().levels(rois)
        thin = (shares / FILLED).clamp(min=1e-6, max=1.0)  # both floats, or ONNX has no such operation
        scale = (areas(rois[:, 1:]).clamp(min=0) * thin).sqrt()
        return (scale / FINEST + 1e-6).log2().floor().clamp(0, len(self.strides) - 1).long()

    def levels_of(self, rois: Tensor, objects: Tensor, truth: Sequence[tuple[Segments, Tensor]]) -> Tensor | None:
        return self.levels(rois, labelled_shares(rois, objects, truth)) if len(rois) else None

    def second_look(self, first: Tensor, rois: Tensor, labels: Tensor, look: Callable[..., Tensor]) -> Tensor:
        """At those regions for which the first masks tell of another level."""
        if rois.is_meta:
            return first
        levels = self.levels(rois, share_of(first))
        (others,) = indices(levels != self.levels(rois))
        return first.index_put((others,), look(rois[others], labels[others], levels[others]))


def share_of(masks: Tensor) -> Tensor:
    """(M, m, m) probabilities in boxes -> (M,): how much of its box each fills.  An empty mask tells nothing: 1."""
    found = (masks >= 0.5).flatten(1).float().mean(1)
    return torch.where(found > 0, found, torch.ones_like(found))


@torch.no_grad()
def labelled_shares(rois: Tensor, objects: Tensor, truth: Sequence[tuple[Segments, Tensor]]) -> Tensor:
    """Regions (P, 5) and the object of its picture that each stands for -> (P,): how much of its own box each object fills."""
    found = rois.new_ones(len(rois))
    for i, (segments, boxes) in enumerate(truth):
        mine = rois[:, 0] == i
        shares = segments.masks.flatten(1).sum(1) / areas(boxes).clamp(min=1)
        found[mine] = shares[objects[mine]].to(found.dtype)
    return found


class BalancedMaskLoss(nn.Module):
    """Mask logits (P, m, m), targets in [0, 1], and how much each cell counts -> mean over the regions, a float32 scalar.

    balance   0: every cell of a region counts the same; 1: its foreground as much as its background
    """

    def __init__(self, balance: float = BALANCE) -> None:
        super().__init__()
        if not 0 <= balance <= 1:
            raise ValueError(f"balance is {balance}; give a number from 0 (plain mean) to 1 (halves)")
        self.balance = balance

    def forward(self, logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        losses = F.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none")
        sides = torch.stack((targets * weights, (1 - targets) * weights)).flatten(2)  # (2, P, cells)
        sizes = sides.sum(2)
        means = safe_divide((losses.flatten(1) * sides).sum(2), sizes)
        counted = sizes.sum(0)
        # of a region with one side only, that side's mean; 0 ** 0 must not bring the other one in
        parts = safe_divide(sizes, counted.expand_as(sizes)) ** (1 - self.balance) * (sizes > 0)
        by_region = safe_divide((parts * means).sum(0), parts.sum(0))
        return safe_divide((by_region * (counted > 0)).sum(), (counted > 0).sum())


def two_stages(first: dict[str, Any], second: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Model arguments of the paper's two stages, from those of their classifiers (`class_scores.long_tail_arguments`).

    The first masks are cut out and learned as usual; the second stage sees them by share and learns them balanced.
    """
    return first | {"mask_levels": "scale", "mask_loss": "cross_entropy"}, second | {
        "mask_levels": "share",
        "mask_loss": "balanced",
    }
