"""Cross entropy over the labelled pixels: softmax, or sigmoids; the mean as PyTorch or as mmsegmentation takes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from segmentarium.labels import IGNORE_INDEX
from segmentarium.losses.base import PixelLoss, one_hot, safe_divide


class CrossEntropy(PixelLoss):
    """Cross entropy of logits (B, K, H, W) and labels (B, H, W).

    Args:
        class_weight: one weight a class; the mean is then weighted too (divided by the sum of the weights).
        ignore_index: the label that counts nowhere.
        label_smoothing: the share of each target, 0..1, that is spread evenly over all classes.
        average: "valid" divides by the labelled pixels (PyTorch's mean); "all" by every pixel, ignored ones
            included (mmsegmentation's default), so that a crop with few labels weighs less.
        activation: "softmax", one class a pixel; "sigmoid", K independent yes-or-no questions (mmsegmentation's
            `use_sigmoid`), averaged over the classes. K = 1 is always a sigmoid.
    """

    def __init__(
        self,
        class_weight: Sequence[float] | Tensor | None = None,
        ignore_index: int = IGNORE_INDEX,
        label_smoothing: float = 0.0,
        average: Literal["valid", "all"] = "valid",
        activation: Literal["softmax", "sigmoid"] = "softmax",
    ) -> None:
        super().__init__(class_weight, ignore_index)
        if not 0.0 <= label_smoothing <= 1.0:
            raise ValueError(f"label_smoothing is {label_smoothing}; give a share from 0 to 1")
        if average not in ("valid", "all"):
            raise ValueError(f"average is {average!r}; give 'valid' or 'all'")
        if activation not in ("softmax", "sigmoid"):
            raise ValueError(f"activation is {activation!r}; give 'softmax' or 'sigmoid'")
        self.label_smoothing = label_smoothing
        self.average = average
        self.activation = activation

    def compute(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        if self.activation == "sigmoid" or logits.shape[1] == 1:
            return self._sigmoid(logits, labels, valid)
        # PyTorch's kernel skips ignored pixels by their label, so it gets them back under a label no class has.
        total = F.cross_entropy(
            logits,
            labels.masked_fill(~valid, -1),
            weight=self.class_weight,
            ignore_index=-1,
            reduction="sum",
            label_smoothing=self.label_smoothing,
        )
        if self.average == "all":
            return total / labels.numel()
        count = valid.sum() if self.class_weight is None else self.pixel_weight(labels, valid).sum()
        return safe_divide(total, count)

    def _sigmoid(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        num_classes = logits.shape[1]
        answers = one_hot(labels, valid, num_classes)
        answers = answers * (1.0 - self.label_smoothing) + self.label_smoothing / 2
        loss = F.binary_cross_entropy_with_logits(logits, answers, reduction="none")
        if num_classes == 1:
            weight = self.pixel_weight(labels, valid).unsqueeze(1)
        else:
            weight = valid.unsqueeze(1).float().expand_as(logits)
            if self.class_weight is not None:
                weight = weight * self.class_weight.view(1, -1, 1, 1)
        total = (loss * weight).sum()
        return total / logits.numel() if self.average == "all" else safe_divide(total, weight.sum())

    def extra_repr(self) -> str:
        return (
            f"{super().extra_repr()}, label_smoothing={self.label_smoothing}, "
            f"average={self.average!r}, activation={self.activation!r}"
        )
