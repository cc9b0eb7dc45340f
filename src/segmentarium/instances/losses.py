"""What detectors are trained by.  All of these take outputs that come with what they are held against (`InstanceDecoder`)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Objectness(nn.Module):
    """Logits (S,) of anchors and whether each stands for an object: mean binary cross entropy."""

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits.float(), labels, reduction="sum") / max(len(labels), 1)


class BoxDistance(nn.Module):
    """Deltas (S, 4) of sampled boxes, what they should be, and labels (S,): smooth L1 of those that stand for an object, over
    the number of all that are sampled.

    beta      distance up to which it is a square; 0: nowhere
    nothing   label of boxes that stand for nothing
    """

    def __init__(self, beta: float, nothing: int = 0) -> None:
        super().__init__()
        self.beta, self.nothing = beta, nothing

    def forward(self, deltas: Tensor, targets: Tensor, labels: Tensor) -> Tensor:
        kept = labels != self.nothing
        total = F.smooth_l1_loss(deltas[kept].float(), targets[kept], reduction="sum", beta=self.beta)
        return total / max(len(labels), 1)


class OfRegions(nn.Module):
    """Class scores (S, width) of sampled regions and labels (S,), by any loss of such; 0 where none is sampled.

    A loss that takes it is also told which questions have an answer, bool (S, K).
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, scores: Tensor, labels: Tensor, *answers: Tensor) -> Tensor:
        return self.loss(scores.float(), labels, *answers) if len(labels) else scores.float().sum()


class MaskCrossEntropy(nn.Module):
    """Mask logits (P, m, m), targets in [0, 1], and how much each cell counts: mean binary cross entropy."""

    def forward(self, logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        losses = F.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none")
        return (losses * weights).sum() / weights.sum().clamp(min=1)
