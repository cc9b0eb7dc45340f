"""Agreement of two predictions of one picture (Zhang et al., PortraitNet, Computers & Graphics 2019)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.labels import IGNORE_INDEX


class Consistency(nn.Module):
    """KL divergence of a student's classes from a teacher's.

    No gradient reaches the teacher.  The mean is over pixels and classes alike, labelled or not, as in the authors' code;
    a batch without a single label gives 0.

    temperature   divides both logits; the divergence is multiplied by its square, so that gradients keep their size
    """

    def __init__(self, temperature: float = 1.0, ignore_index: int = IGNORE_INDEX) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"temperature is {temperature}; give a number above 0")
        self.temperature = temperature
        self.ignore_index = ignore_index

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
        """logits (B, K, H, W) of both and labels (B, H, W) -> float32 scalar"""
        if student.shape != teacher.shape:
            raise ValueError(
                f"the student's logits have shape {tuple(student.shape)} and the teacher's {tuple(teacher.shape)}; "
                "give logits of one shape"
            )
        with torch.autocast(student.device.type, enabled=False):
            ours, theirs = (_at_least_two(logits.float()) / self.temperature for logits in (student, teacher))
            loss = F.kl_div(ours.log_softmax(1), theirs.detach().softmax(1), reduction="none").mean()
            return loss * self.temperature**2 * (target != self.ignore_index).any()

    def extra_repr(self) -> str:
        return f"temperature={self.temperature}"


def _at_least_two(logits: Tensor) -> Tensor:
    """One sigmoid logit as the two of a softmax."""
    return torch.cat([torch.zeros_like(logits), logits], 1) if logits.shape[1] == 1 else logits
