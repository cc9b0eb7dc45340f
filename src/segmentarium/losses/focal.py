"""Focal loss (Lin et al., "Focal Loss for Dense Object Detection", arXiv 1708.02002)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from segmentarium.labels import IGNORE_INDEX
from segmentarium.losses.base import PixelLoss, pixel_cross_entropy, safe_divide


class Focal(PixelLoss):
    """The mean of (1 - p)^gamma * -log(p), p the probability of the pixel's label (softmax, or a sigmoid for K = 1).

    The paper's alpha is `class_weight=(1 - alpha, alpha)` for K = 1.

    Args:
        gamma: 0 is plain cross entropy; the larger, the less the pixels count that are already right.
        class_weight: one weight a class; the mean is then weighted too.
        ignore_index: the label that counts nowhere.
    """

    def __init__(
        self,
        gamma: float = 2.0,
        class_weight: Sequence[float] | Tensor | None = None,
        ignore_index: int = IGNORE_INDEX,
    ) -> None:
        super().__init__(class_weight, ignore_index)
        if gamma < 0:
            raise ValueError(f"gamma is {gamma}; give 0 or more")
        self.gamma = gamma

    def compute(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        loss = pixel_cross_entropy(logits, labels, valid)
        # 1 - p without cancellation; kept off 0, where a power under 1 has an infinite slope.
        error = (-torch.expm1(-loss)).clamp(min=1e-12)
        weight = self.pixel_weight(labels, valid)
        return safe_divide((error.pow(self.gamma) * loss * weight).sum(), weight.sum())

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, gamma={self.gamma}"
