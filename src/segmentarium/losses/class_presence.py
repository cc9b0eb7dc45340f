"""Which classes an image shows, asked of the whole image (EncNet's semantic encoding loss, arXiv 1803.08904)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.labels import IGNORE_INDEX
from segmentarium.losses.base import safe_divide


class ClassPresence(nn.Module):
    """Binary cross entropy between logits (B, K), one a class, and whether the class occurs in the labels (B, H, W).

    The mean over the classes and over the images with any label.  K = 1: whether label 1 occurs.

    Args:
        ignore_index: the label that counts nowhere.
    """

    def __init__(self, ignore_index: int = IGNORE_INDEX) -> None:
        super().__init__()
        self.ignore_index = ignore_index

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss as a float32 scalar, 0 where no image has a label."""
        if logits.ndim != 2 or target.ndim != 3 or len(logits) != len(target):
            raise ValueError(
                f"logits have shape {tuple(logits.shape)} and target {tuple(target.shape)}; "
                "give one logit a class (B, K) and a label map (B, H, W)"
            )
        with torch.autocast(logits.device.type, enabled=False):
            num_classes = logits.shape[1]
            valid = (target != self.ignore_index).flatten(1)
            labels = target.long().flatten(1)
            if num_classes == 1:
                present = ((labels == 1) & valid).any(1, keepdim=True).float()
            else:
                # one column more takes the ignored pixels
                table = torch.zeros(len(logits), num_classes + 1, device=logits.device)
                present = table.scatter_(1, labels.masked_fill(~valid, num_classes), 1.0)[:, :num_classes]
            loss = F.binary_cross_entropy_with_logits(logits.float(), present, reduction="none").mean(1)
            labelled = valid.any(1).float()
            return safe_divide((loss * labelled).sum(), labelled.sum())
