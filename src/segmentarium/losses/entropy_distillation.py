"""A student held to an oracle and to the labels, most where the oracle is unsure, all classes alike (CAC, arXiv 2303.11633)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segmentarium.labels import IGNORE_INDEX
from segmentarium.losses.base import check_target, one_hot, safe_divide, sums_by_label


class EntropyDistillation(nn.Module):
    """Cross entropy of a student against a mean of a teacher's probabilities and the labels; no gradient reaches the teacher.

    A pixel weighs as much as the entropy of the teacher's probabilities there.  The pixels of one class give one mean, whatever
    their number, and the classes that occur in the batch give the mean of those (the authors' code has cross
    entropy, which is the KL divergence but for a constant, and the labels in the target).

    Args:
        share: of the teacher in the target; the rest is the label's.
        ignore_index: the label that counts nowhere.
    """

    def __init__(self, share: float = 0.5, ignore_index: int = IGNORE_INDEX) -> None:
        super().__init__()
        if not 0.0 <= share <= 1.0:
            raise ValueError(f"share is {share}; give a number from 0 to 1")
        self.share = share
        self.ignore_index = ignore_index

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
        """logits (B, K, H, W) of both, K two or more, and labels (B, H, W) -> float32 scalar, 0 where nothing is labelled"""
        if student.shape != teacher.shape or student.shape[1] < 2:
            raise ValueError(
                f"the student's logits have shape {tuple(student.shape)} and the teacher's {tuple(teacher.shape)}; "
                "give logits of one shape, of two classes or more"
            )
        check_target(student, target, self.ignore_index)
        with torch.autocast(student.device.type, enabled=False):
            number = student.shape[1]
            valid = target != self.ignore_index
            labels = target.long()
            soft = teacher.detach().float().log_softmax(1)
            wanted = self.share * soft.exp() + (1 - self.share) * one_hot(labels.masked_fill(~valid, 0), valid, number)
            loss = -(wanted * student.float().log_softmax(1)).sum(1)
            entropy = -(soft.exp() * soft).sum(1)
            # one class more takes the ignored pixels
            classes = labels.masked_fill(~valid, number).flatten()
            of_pixel = torch.stack([loss * entropy, entropy, torch.ones_like(entropy)], -1).flatten(0, 2)
            total, weight, count = sums_by_label(of_pixel, classes, number).unbind(1)
            return safe_divide((total / (weight + 1e-12)).sum(), (count > 0).sum())

    def extra_repr(self) -> str:
        return f"share={self.share}, ignore_index={self.ignore_index}"
