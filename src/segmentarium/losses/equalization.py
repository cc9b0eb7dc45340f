"""Equalisation loss: a rare class is not taught "no" by every object of the frequent ones.

J. Tan, C. Wang, B. Li, Q. Li, W. Ouyang, C. Yin, J. Yan, "Equalization Loss for Long-Tailed Object Recognition", CVPR 2020,
https://arxiv.org/abs/2003.05176; code https://github.com/tztztztztz/eql.detectron2 (Apache-2.0), which this follows.
Published, LVIS v0.5, Mask R-CNN R50-FPN: mask AP 21.2 -> 24.0, of rare classes 3.2 -> 9.4; with repeat-factor sampling 26.1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.losses.regions import RegionLoss, numbers, one_hot_rows, row_mean


class EqualizationLoss(RegionLoss):
    """Sigmoids (N, C), without one for the background, whose rows answer "no" to every class.

    Of a foreground row, the "no" to rare classes is left out (eq. 3 of the paper); background rows teach all classes.

    Args:
        frequencies: for each class the share of the training pictures that show it, 0..1.
        threshold: a class is rare below this share (lambda): published 1.77e-3 for LVIS v0.5, 1.1e-3 for v1.
        background: see `RegionLoss`.
    """

    frequencies: Tensor

    def __init__(
        self, frequencies: Sequence[float] | Tensor, threshold: float = 1.77e-3, background: bool = True
    ) -> None:
        shares = numbers(frequencies, "frequencies")
        if max(shares) > 1:
            raise ValueError(
                "frequencies are the share of pictures with each class; give one number from 0 to 1 a class"
            )
        super().__init__(len(shares), background)
        self.threshold = threshold
        self.register_buffer("frequencies", torch.tensor(shares, dtype=torch.float32), persistent=False)

    @property
    def width(self) -> int:
        return self.num_classes

    def compute(self, logits: Tensor, labels: Tensor, valid: Tensor, known: Tensor | None) -> Tensor:
        target = one_hot_rows(labels, self.num_classes)
        rare = (self.frequencies < self.threshold).float()
        foreground = (labels < self.num_classes).float()[:, None]
        weight = 1 - foreground * rare * (1 - target)
        if known is not None:
            weight = weight * known
        losses = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        return row_mean((losses * weight).sum(1), valid)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Sigmoids; the background's column is 0, as the code has it: a row is background where no class is likely."""
        found = logits.float().sigmoid()
        return F.pad(found, (0, 1)) if self.background else found

    def extra_repr(self) -> str:
        rare = int((self.frequencies < self.threshold).sum())
        return f"{super().extra_repr()}, threshold={self.threshold}, rare={rare}"


def init_rare(classifier: nn.Linear, probability: float = 0.001) -> nn.Linear:
    """Starts a classifier of sigmoids as published: small weights, and every class improbable."""
    nn.init.normal_(classifier.weight, std=0.01)
    if classifier.bias is not None:
        nn.init.constant_(classifier.bias, -math.log((1 - probability) / probability))
    return classifier
