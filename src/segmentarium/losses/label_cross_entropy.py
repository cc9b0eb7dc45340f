"""Cross entropy of whole pictures: class scores against labels, or against shares of classes (mixup, cutmix)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LabelCrossEntropy(nn.Module):
    """Cross entropy of logits (B, K) and labels: integers (B,), or probabilities (B, K) whose rows sum to 1.

    K = 1 is one sigmoid logit: label 1 is the foreground; shares are then (B, 2).

    Args:
        label_smoothing: the share of each target, 0..1, that is spread evenly over all classes.
    """

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        if not 0.0 <= label_smoothing <= 1.0:
            raise ValueError(f"label_smoothing is {label_smoothing}; give a share from 0 to 1")
        self.label_smoothing = label_smoothing

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The mean over the batch, a float32 scalar."""
        soft = target.is_floating_point()
        if logits.ndim != 2 or target.shape != ((len(logits), max(logits.shape[1], 2)) if soft else logits.shape[:1]):
            raise ValueError(
                f"logits have shape {tuple(logits.shape)} and target {tuple(target.shape)}; "
                "give scores (B, K), and labels (B,) or shares of classes (B, K)"
            )
        with torch.autocast(logits.device.type, enabled=False):
            logits = logits.float()
            if logits.shape[1] == 1:  # the two scores whose softmax is that sigmoid
                logits = torch.cat([torch.zeros_like(logits), logits], 1)
            target = target.float() if soft else target.long()
            return F.cross_entropy(logits, target, label_smoothing=self.label_smoothing)

    def extra_repr(self) -> str:
        return f"label_smoothing={self.label_smoothing}"
