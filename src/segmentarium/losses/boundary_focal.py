"""The focal loss that looks hardest at class boundaries (Oršić et al., SwiftNet, arXiv 1903.08469, and its public code)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from segmentarium.labels import IGNORE_INDEX
from segmentarium.losses.base import PixelLoss, pixel_cross_entropy, safe_divide

# OpenCV's weights of the 5×5 chamfer mask (Borgefors, 1986): an approximation of the Euclidean distance within 2 %
STEPS = tuple(
    ((dy, dx), 1.0 if 0 in (dy, dx) else 1.4 if abs(dy) == abs(dx) else 2.1969)
    for dy in range(-2, 3)
    for dx in range(-2, 3)
    if (abs(dy), abs(dx)) in ((0, 1), (1, 0), (1, 1), (1, 2), (2, 1))
)


@torch.no_grad()
def label_distance(labels: Tensor, limit: float) -> Tensor:
    """How far each pixel is from the nearest one of another label, float32 (B, H, W); image borders are no boundary.

    Equal to OpenCV's `distanceTransform(mask, DIST_L2, 5)` of each class's mask up to `limit`; beyond it, the distance or
    infinity.  A shortest way is straight ahead and diagonal steps, so many of each; jumps of 1, 2, 4, … steps make up any
    such number, and between its ends a shortest way stays within its label.  So one pass over all jumps is exact.
    """
    height, width = labels.shape[-2:]
    distance = torch.full(labels.shape, torch.inf, device=labels.device)
    jump = 1
    while jump <= limit:
        for (dy, dx), cost in STEPS:
            y, x = dy * jump, dx * jump
            if abs(y) >= height or abs(x) >= width:
                continue
            here = (..., slice(max(-y, 0), height - max(y, 0)), slice(max(-x, 0), width - max(x, 0)))
            there = (..., slice(max(y, 0), height + min(y, 0)), slice(max(x, 0), width + min(x, 0)))
            rest = torch.where(labels[here] == labels[there], distance[there], 0.0)
            distance[here] = torch.minimum(distance[here], rest + cost * jump)
        jump *= 2
    return distance


class BoundaryAwareFocal(PixelLoss):
    """The sum of alpha · exp(gamma · (1 - p)) · -log p over the labelled pixels, divided by their number.

    p is the probability of the pixel's label, and no gradient flows through the factor it makes; alpha is large near a
    boundary between labels (a boundary to ignored pixels too) and falls with the distance from it.

    Args:
        gamma: 0 leaves alpha's weighting only; the larger, the more the pixels count that are wrong.
        bins: distances in pixels, rising, at which alpha changes; chosen for Cityscapes' 2048×1024.
        alphas: the weight of the pixels nearer than bins[0], ..., and of those beyond the last bin.
        class_weight: one weight a class; the mean is then weighted too.
        ignore_index: the label that counts nowhere.
    """

    def __init__(
        self,
        gamma: float = 0.5,
        bins: Sequence[float] = (16, 64, 128),
        alphas: Sequence[float] = (8, 4, 2, 1),
        class_weight: Sequence[float] | Tensor | None = None,
        ignore_index: int = IGNORE_INDEX,
    ) -> None:
        super().__init__(class_weight, ignore_index)
        if gamma < 0:
            raise ValueError(f"gamma is {gamma}; give 0 or more")
        if len(alphas) != len(bins) + 1 or list(bins) != sorted(bins):
            raise ValueError(f"bins is {tuple(bins)} and alphas {tuple(alphas)}; give rising bins and one alpha more")
        self.gamma = gamma
        self.bins = tuple(float(edge) for edge in bins)
        self.alphas = tuple(float(alpha) for alpha in alphas)

    def alpha(self, labels: Tensor, valid: Tensor) -> Tensor:
        """The weight of each pixel by its distance from a boundary, float32 (B, H, W), 0 where ignored."""
        distance = label_distance(labels.masked_fill(~valid, -1), self.bins[-1] if self.bins else 0.0)
        edges = torch.tensor(self.bins, device=labels.device)
        weights = torch.tensor(self.alphas, device=labels.device)
        return weights[torch.bucketize(distance, edges, right=True)] * valid

    def compute(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        loss = pixel_cross_entropy(logits, labels, valid)
        focus = (self.gamma * (1.0 - (-loss.detach()).exp())).exp()
        weight = self.pixel_weight(labels, valid)
        alpha = self.alpha(labels, valid)
        return safe_divide((loss * focus * alpha * weight).sum(), (weight * (alpha > 0)).sum())

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, gamma={self.gamma}, bins={self.bins}, alphas={self.alphas}"
