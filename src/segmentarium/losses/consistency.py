"""Agreement of two predictions of one picture (Zhang et al., PortraitNet, Computers & Graphics 2019)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.losses.base import IGNORE_INDEX


class Consistency(nn.Module):
    """KL divergence of a student's classes from a teacher's, whose logits follow the student's as further channels.

    No gradient reaches the teacher.  The mean is over pixels and classes alike, labelled or not, as in the authors' code;
    a batch without a single label gives 0.

    temperature   divides both logits; the divergence is multiplied by its square, so that gradients keep their size
    """

    classwise = False

    def __init__(self, temperature: float = 1.0, ignore_index: int = IGNORE_INDEX) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"temperature is {temperature}; give a number above 0")
        self.temperature = temperature
        self.ignore_index = ignore_index

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """logits (B, 2K, H, W), the student's before the teacher's; target (B, H, W) -> float32 scalar"""
        if logits.shape[1] % 2:
            raise ValueError(f"logits have {logits.shape[1]} channels; give the student's and as many of the teacher's")
        with torch.autocast(logits.device.type, enabled=False):
            student, teacher = (_at_least_two(half) / self.temperature for half in logits.float().chunk(2, 1))
            loss = F.kl_div(student.log_softmax(1), teacher.detach().softmax(1), reduction="none").mean()
            return loss * self.temperature**2 * (target != self.ignore_index).any()

    def extra_repr(self) -> str:
        return f"temperature={self.temperature}"


def _at_least_two(logits: Tensor) -> Tensor:
    """One sigmoid logit as the two of a softmax."""
    return torch.cat([torch.zeros_like(logits), logits], 1) if logits.shape[1] == 1 else logits
