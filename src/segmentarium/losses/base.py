"""What every loss on label maps shares: checked input, float32 inside, ignored pixels, class weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.labels import IGNORE_INDEX


class PixelLoss(nn.Module):
    """A loss between logits (B, K, H, W) and a label map (B, H, W).

    A subclass gives `compute`; this class checks the shapes and values, casts to float32 and switches autocast
    off, because logarithms and sums over millions of pixels overflow or round to nothing in half precision.
    Labels are 0..K-1, or 0 and 1 where K is 1 (one sigmoid logit); pixels labelled `ignore_index` count nowhere,
    and a target with only such pixels gives exactly 0, still attached to the graph.

    Args:
        class_weight: one weight a class (two, background and foreground, where K is 1), or None.
        ignore_index: the label that counts nowhere.
    """

    class_weight: Tensor | None

    def __init__(self, class_weight: Sequence[float] | Tensor | None = None, ignore_index: int = IGNORE_INDEX) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        if isinstance(class_weight, str):
            raise TypeError(f"class_weight is {class_weight!r}; give one number a class, as class_weights() suggests")
        weight = None if class_weight is None else torch.as_tensor(class_weight, dtype=torch.float32).detach().clone()
        if weight is not None and (weight.ndim != 1 or not bool(torch.isfinite(weight).all()) or weight.min() < 0):
            raise ValueError(f"class_weight is {class_weight}; give one finite number of 0 or more for each class")
        # Not saved: weights belong to the data, and a checkpoint must load into a loss that has none.
        self.register_buffer("class_weight", weight, persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss as a float32 scalar; logits (B, K, H, W) of any floating type, target (B, H, W) of integers."""
        check_target(logits, target, self.ignore_index)
        num_labels = max(2, logits.shape[1])
        if self.class_weight is not None and self.class_weight.numel() != num_labels:
            raise ValueError(
                f"class_weight has {self.class_weight.numel()} values, but logits of shape {tuple(logits.shape)} "
                f"have {num_labels} labels; give {num_labels} weights"
            )
        with torch.autocast(logits.device.type, enabled=False):
            valid = target != self.ignore_index
            labels = target.long().masked_fill(~valid, 0)
            return self.compute(logits.float(), labels, valid)

    def compute(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """The loss of float32 logits; labels (B, H, W) are int64 with 0 at ignored pixels, valid (B, H, W) is bool."""
        raise NotImplementedError

    def pixel_weight(self, labels: Tensor, valid: Tensor) -> Tensor:
        """The weight of each pixel, float32 (B, H, W): that of its class, and 0 where it is ignored."""
        if self.class_weight is None:
            return valid.float()
        return self.class_weight[labels] * valid

    def extra_repr(self) -> str:
        weight = None if self.class_weight is None else [round(value, 4) for value in self.class_weight.tolist()]
        return f"class_weight={weight}, ignore_index={self.ignore_index}"


def check_target(logits: Tensor, target: Tensor, ignore_index: int = IGNORE_INDEX) -> None:
    """Raise a clear error where a target does not fit its logits.

    Shapes and types are always checked. Values are checked on the CPU only: on another device it would make the
    host wait for it in every step, so check batches there before they are moved.

    Raises:
        ValueError: wrong shape, another size, or labels outside the classes (which are named).
        TypeError: a target of floating-point numbers.
    """
    if logits.ndim != 4 or target.ndim != 3:
        raise ValueError(
            f"logits have shape {tuple(logits.shape)} and target {tuple(target.shape)}; "
            "give logits (B, K, H, W) and a label map (B, H, W)"
        )
    if logits.shape[0] != target.shape[0] or logits.shape[2:] != target.shape[1:]:
        raise ValueError(
            f"logits have shape {tuple(logits.shape)}, but target {tuple(target.shape)}; "
            "batch, height and width must be equal: resize the logits to the target first"
        )
    if target.is_floating_point() or target.is_complex():
        raise TypeError(f"target is {target.dtype}; give integer labels (int64), not scores")
    if torch.compiler.is_compiling() or target.device.type != "cpu" or not target.numel():
        return
    num_labels = max(2, logits.shape[1])
    valid = target != ignore_index
    low, high = torch.aminmax(target.long().masked_fill(~valid, 0))
    if low < 0 or high >= num_labels:
        found = torch.unique(target[valid & ((target < 0) | (target >= num_labels))]).tolist()
        shown = ", ".join(map(str, found[:8])) + (", …" if len(found) > 8 else "")
        raise ValueError(
            f"target has labels {shown}, but logits with {logits.shape[1]} channel(s) allow 0..{num_labels - 1} "
            f"and {ignore_index} (ignored); map the labels to the classes or mark them {ignore_index}"
        )


def pixel_cross_entropy(logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
    """The negative log probability of each pixel's label, (B, H, W), 0 where ignored; one channel means a sigmoid."""
    if logits.shape[1] == 1:
        loss = F.binary_cross_entropy_with_logits(logits[:, 0], labels.to(logits.dtype), reduction="none")
    else:
        loss = F.cross_entropy(logits, labels, reduction="none")
    return loss.masked_fill(~valid, 0.0)


def safe_divide(numerator: Tensor, denominator: Tensor) -> Tensor:
    """numerator / denominator; where the denominator is 0, the numerator: an empty sum stays 0 and keeps its graph."""
    return numerator / torch.where(denominator > 0, denominator, torch.ones_like(denominator))


def sums_by_label(x: Tensor, labels: Tensor, number: int) -> Tensor:
    """(N, …) and labels up to `number` -> (number, …), the sum of each label's rows; those of `number` itself are left out."""
    return x.new_zeros(number + 1, *x.shape[1:]).index_add(0, labels, x)[:number]


def one_hot(labels: Tensor, valid: Tensor, num_classes: int) -> Tensor:
    """float32 (B, K, H, W): 1 at each valid pixel's class. One class means the foreground, label 1."""
    if num_classes == 1:
        return (labels * valid).unsqueeze(1).float()
    encoded = torch.zeros((labels.shape[0], num_classes, *labels.shape[1:]), device=labels.device)
    return encoded.scatter_(1, labels.unsqueeze(1), valid.unsqueeze(1).float())


def probabilities(logits: Tensor) -> Tensor:
    """Softmax over the channels, or the sigmoid of a single one."""
    return logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(dim=1)
