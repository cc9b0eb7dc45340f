"""What every metric shares: one tensor of counts that images are added to, so memory does not grow with the data set."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor


class Accumulator:
    """Counts over a data set on one device, to be merged with those of other parts or processes.

    Args:
        shape: of the counts.
        device: where they are kept; updates must come from the same device.
        dtype: of the counts; int64 stays exact over any number of pixels.
    """

    counts: Tensor

    def __init__(
        self, shape: tuple[int, ...], device: torch.device | str = "cpu", dtype: torch.dtype = torch.int64
    ) -> None:
        self.counts = torch.zeros(shape, dtype=dtype, device=device)

    def reset(self) -> None:
        """Forget all images."""
        self.counts.zero_()

    def to(self, device: torch.device | str) -> Self:
        """Move the counts to another device."""
        self.counts = self.counts.to(device)
        return self

    def merge(self, other: Self) -> Self:
        """Add the counts of another part of the data set; the result is as if this one had seen all of it."""
        if other.counts.shape != self.counts.shape:
            raise ValueError(
                f"cannot merge counts of shape {tuple(other.counts.shape)} into {tuple(self.counts.shape)}; "
                "both must be made with the same arguments"
            )
        self.counts += other.counts.to(self.counts.device)
        return self

    def all_reduce(self) -> Self:
        """Add up the counts of all processes, in each of them. Call it once, after the last update.

        Does nothing without a process group, so the same evaluation code runs in one process and in many.
        """
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(self.counts)
        return self


def check_labels(prediction: Tensor, target: Tensor, num_labels: int, ignore_index: int) -> None:
    """Raise a clear error where two label maps cannot be compared; values are checked on the CPU only (no waiting).

    Raises:
        ValueError: other shapes, or labels outside 0..num_labels-1 (ignored target pixels may have any prediction).
        TypeError: scores instead of labels.
    """
    if prediction.shape != target.shape or target.ndim != 3:
        raise ValueError(
            f"prediction has shape {tuple(prediction.shape)} and target {tuple(target.shape)}; "
            "give two label maps (B, H, W) of the same size"
        )
    for name, labels in (("prediction", prediction), ("target", target)):
        if labels.is_floating_point():
            raise TypeError(f"{name} is {labels.dtype}; give integer labels (the argmax of the logits, not the logits)")
    if target.device.type != "cpu" or not target.numel():
        return
    valid = target != ignore_index
    for name, labels in (("prediction", prediction), ("target", target)):
        low, high = torch.aminmax(labels.masked_fill(~valid, 0))
        if low < 0 or high >= num_labels:
            found = torch.unique(labels[valid & ((labels < 0) | (labels >= num_labels))]).tolist()
            shown = ", ".join(map(str, found[:8])) + (", …" if len(found) > 8 else "")
            raise ValueError(
                f"{name} has labels {shown} at pixels that count, but there are {num_labels} classes "
                f"(0..{num_labels - 1}); in the target, {ignore_index} is ignored"
            )


def number_of_labels(num_classes: int) -> int:
    """How many labels there are: one class is a sigmoid, and labels are then background 0 and foreground 1."""
    if num_classes < 1:
        raise ValueError(f"num_classes is {num_classes}; give the number of classes, 1 or more")
    return max(2, num_classes)


def by_name(values: Tensor, classes: tuple[str, ...] | list[str] | None) -> dict[str, float]:
    """The value of each class under its name (its index where there are no names)."""
    names = [str(index) for index in range(len(values))] if classes is None else classes
    if len(names) != len(values):
        raise ValueError(f"classes has {len(names)} names for {len(values)} classes; give one each")
    return dict(zip(names, values.tolist(), strict=True))
