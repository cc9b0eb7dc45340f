"""Features of one class close together, those of two classes apart (CCNet's journal version, arXiv 1811.11721v2, section 3.4).

There is no public code; constants and formula are the paper's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.labels import IGNORE_INDEX
from segmentarium.losses.base import safe_divide, sums_by_label


class CategoryConsistency(nn.Module):
    """α · variance + β · distance + γ · size, over the classes that occur among the labelled pixels of the batch.

    variance   mean over the classes of the mean over their pixels of φ(d), d the distance of a feature from its class's mean:
               0 up to `margin`, (d - margin)² up to `reach`, and from there on growing by d
    distance   mean over the ordered pairs of classes of (2 · reach - |difference of their means|)², where that is positive
    size       mean over the classes of their mean's length

    Args:
        num_classes: K; one class means the two labels 0 and 1.
        margin: δ_v, within which a feature may lie freely.
        reach: δ_d, half the distance that means are pushed apart to.
        weights: α, β and γ.
        ignore_index: the label that counts nowhere.
    """

    def __init__(
        self,
        num_classes: int,
        margin: float = 0.5,
        reach: float = 1.5,
        weights: tuple[float, float, float] = (1.0, 1.0, 0.001),
        ignore_index: int = IGNORE_INDEX,
    ) -> None:
        super().__init__()
        if not 0 <= margin < reach:
            raise ValueError(f"margin is {margin} and reach {reach}; give 0 <= margin < reach")
        self.num_labels = max(num_classes, 2)
        self.margin, self.reach = margin, reach
        self.weights = weights
        self.ignore_index = ignore_index

    def forward(self, features: Tensor, target: Tensor) -> Tensor:
        """features (B, D, H, W) and labels (B, H, W) -> float32 scalar, 0 where nothing is labelled"""
        if features.ndim != 4 or target.ndim != 3 or features.shape[2:] != target.shape[1:]:
            raise ValueError(
                f"features have shape {tuple(features.shape)} and target {tuple(target.shape)}; "
                "give features (B, D, H, W) and a label map of the same height and width (B, H, W)"
            )
        with torch.autocast(features.device.type, enabled=False):
            x = features.float().permute(0, 2, 3, 1).flatten(0, 2)  # (N, D)
            labels = target.long().flatten()
            # one class more takes the ignored pixels
            labels = labels.masked_fill(labels == self.ignore_index, self.num_labels)
            count = sums_by_label(torch.ones_like(x[:, 0]), labels, self.num_labels)
            means = sums_by_label(x, labels, self.num_labels) / count.clamp(min=1)[:, None]
            present = (count > 0).float()
            classes = present.sum()

            far = _length(x - F.pad(means, (0, 0, 0, 1))[labels])
            cost = torch.where(
                far <= self.reach,
                (far - self.margin).clamp(min=0).square(),
                far - self.reach + (self.reach - self.margin) ** 2,
            )
            variance = (sums_by_label(cost, labels, self.num_labels) / count.clamp(min=1)).sum()

            pairs = present[:, None] * present * (1 - torch.eye(self.num_labels, device=x.device))
            overlap = (2 * self.reach - _length(means[:, None] - means)).clamp(min=0).square()
            distance = (overlap * pairs).sum()
            size = (_length(means) * present).sum()
            alpha, beta, gamma = self.weights
            return safe_divide(alpha * variance + gamma * size, classes) + beta * safe_divide(distance, pairs.sum())

    def extra_repr(self) -> str:
        return f"margin={self.margin}, reach={self.reach}, weights={self.weights}"


def _length(x: Tensor) -> Tensor:
    """Of the vectors along the last dimension; at 0 with the gradient 0."""
    return x.square().sum(-1).clamp(min=1e-12).sqrt()
