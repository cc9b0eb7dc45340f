"""What losses of regions share: one label a row, background, rows that count nowhere; and what scores mean afterwards.

A row is a region of a picture (a box that a detector proposes), or a whole picture for a classifier.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segmentarium.labels import IGNORE_INDEX
from segmentarium.losses.base import safe_divide


class RegionLoss(nn.Module):
    """A loss between logits (N, width) and a label for each of N rows.

    Labels are 0..C-1, and C for the background.  A row whose label is negative counts nowhere, nor does one of 255, unless
    there are so many classes that 255 is one of them; where no row counts the loss is exactly 0, still attached to the graph.
    A subclass gives `compute`, `width` and `probabilities`; logits are float32 there and autocast is off.

    Args:
        num_classes: C.
        background: rows may show none of the classes.  False: every row has one, as pictures do for a classifier.
    """

    takes_known = True  # questions may stay open

    def __init__(self, num_classes: int, background: bool = True) -> None:
        super().__init__()
        if num_classes < 1 + (not background):
            raise ValueError(
                f"num_classes is {num_classes}{'' if background else ' without a background'}: there is nothing to tell apart; "
                f"give {1 + (not background)} or more"
            )
        self.num_classes, self.background = num_classes, background

    @property
    def width(self) -> int:
        """Columns of the logits."""
        raise NotImplementedError

    @property
    def num_labels(self) -> int:
        """C, and one more where there is a background."""
        return self.num_classes + self.background

    def forward(self, logits: Tensor, labels: Tensor, known: Tensor | None = None) -> Tensor:
        """Logits (N, width), integers (N,) -> a float32 scalar.

        known   bool (N, C), where the loss takes it: which questions have an answer (`losses.federated`); None: all
        """
        self.check(logits, labels, known)
        with torch.autocast(logits.device.type, enabled=False):
            valid = self.counted(labels)
            return self.compute(logits.float(), labels.long().where(valid, 0), valid, known)

    def compute(self, logits: Tensor, labels: Tensor, valid: Tensor, known: Tensor | None) -> Tensor:
        """The loss of float32 logits (N, width); labels (N,) are 0 where `valid` (N,) is False."""
        raise NotImplementedError

    def probabilities(self, logits: Tensor) -> Tensor:
        """(…, width) -> (…, C) in 0..1, and with a background a last column for it."""
        raise NotImplementedError

    def counted(self, labels: Tensor) -> Tensor:
        """bool (N,): the rows that count."""
        counted = labels >= 0
        return counted & (labels != IGNORE_INDEX) if self.num_labels <= IGNORE_INDEX else counted

    def check(self, logits: Tensor, labels: Tensor, known: Tensor | None = None) -> None:
        """Raises ValueError or TypeError, saying which, for logits, labels and known answers that do not fit.

        Values are looked at on the CPU only: elsewhere the host would wait for the device in every step.
        """
        if logits.ndim != 2 or logits.shape[1] != self.width or labels.shape != logits.shape[:1]:
            raise ValueError(
                f"logits have shape {tuple(logits.shape)} and labels {tuple(labels.shape)}; {type(self).__name__} of "
                f"{self.num_classes} classes takes (N, {self.width}) and (N,)"
            )
        if labels.is_floating_point():
            raise TypeError(
                f"labels are {labels.dtype}; {type(self).__name__} takes one class a row, integers, and no shares of classes "
                "(mixup and cutmix make such)"
            )
        if known is not None and known.shape != (len(labels), self.num_classes):
            raise ValueError(f"known has shape {tuple(known.shape)}; give ({len(labels)}, {self.num_classes})")
        if labels.device.type == "cpu" and not torch.compiler.is_compiling():
            wrong = labels[self.counted(labels) & (labels >= self.num_labels)]
            if len(wrong):
                shown = ", ".join(map(str, wrong.unique().tolist()[:8]))
                end = f", {self.num_classes} for the background" if self.background else ""
                raise ValueError(f"labels have {shown}; give 0..{self.num_classes - 1}{end}, or -1 for rows to ignore")

    def extra_repr(self) -> str:
        return f"num_classes={self.num_classes}, background={self.background}"


def numbers(values: Sequence[float] | Tensor, what: str) -> list[float]:
    """Plain numbers, so that they can be looked at where a network is built without any (`meta.py`).

    Raises ValueError where they are not finite numbers of 0 or more.
    """
    found = values.tolist() if isinstance(values, Tensor) else list(values)
    if not found or not all(isinstance(one, int | float) and math.isfinite(one) and one >= 0 for one in found):
        raise ValueError(f"{what} is {str(found)[:60]}; give one number of 0 or more for each class")
    return found


def row_mean(losses: Tensor, counted: Tensor) -> Tensor:
    """The mean of losses (N,) over the rows that count, and 0 of none."""
    return safe_divide((losses * counted).sum(), counted.sum())


def one_hot_rows(labels: Tensor, columns: int) -> Tensor:
    """(N,) -> float32 (N, columns), 1 at each label; a row of a label beyond the columns (the background's) is empty."""
    return (labels[:, None] == torch.arange(columns, device=labels.device)).float()


def summed_over_processes(counts: Tensor) -> Tensor:
    """The sum of what all processes counted, so that each of them weighs by the whole batch."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(counts)
    return counts
