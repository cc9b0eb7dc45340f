"""Lovász losses: a convex surrogate of 1 - IoU (Berman et al., CVPR 2018, arXiv 1705.08790)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from segmentarium.labels import IGNORE_INDEX
from segmentarium.losses.base import PixelLoss, one_hot, safe_divide


class Lovasz(PixelLoss):
    """Lovász-Softmax for K classes; the Lovász hinge for K = 1.

    Each class sorts its pixels by their error, |y - p| or the hinge, and weighs each error by how much that pixel,
    added to the wrong ones, raises the Jaccard loss (Alg. 1). All classes and images are sorted at once.

    Args:
        classes: "present" averages over the classes in the labels; "all" over every class (an absent one
            contributes its largest error); or a list of class indices. The foreground of K = 1 always counts.
        per_image: one loss an image, then their mean (over images with labels), instead of one over the batch.
            The paper uses True for the hinge.
        class_weight: weights of the classes in their mean (without effect for K = 1, which has one).
        ignore_index: the label that counts nowhere.
    """

    def __init__(
        self,
        classes: Literal["present", "all"] | Sequence[int] = "present",
        per_image: bool = False,
        class_weight: Sequence[float] | Tensor | None = None,
        ignore_index: int = IGNORE_INDEX,
    ) -> None:
        super().__init__(class_weight, ignore_index)
        if isinstance(classes, str) and classes not in ("present", "all"):
            raise ValueError(f"classes is {classes!r}; give 'present', 'all' or a list of class indices")
        self.classes: str | tuple[int, ...] = classes if isinstance(classes, str) else tuple(classes)
        self.per_image = per_image

    def compute(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        num_classes = logits.shape[1]
        truth = one_hot(labels, valid, num_classes)
        if num_classes == 1:
            errors = 1.0 - logits * (2.0 * truth - 1.0)
        else:
            errors = (truth - logits.softmax(dim=1)).abs()
        # Ignored pixels go to the end of the order, where relu makes them 0 and they have no part in the counts.
        errors = errors.masked_fill(~valid.unsqueeze(1), torch.finfo(errors.dtype).min)
        truth, errors = self._group(truth), self._group(errors)
        inside = self._group(valid.unsqueeze(1)).expand_as(truth)

        errors, order = errors.sort(dim=-1, descending=True)
        step = jaccard_steps(truth.bool().gather(-1, order), inside.gather(-1, order))
        loss = (errors.relu() * step).sum(-1)  # (G, K)
        weight = self._weight(truth.sum(-1) > 0, inside[:, :1].any(-1))
        by_group = safe_divide((loss * weight).sum(-1), weight.sum(-1))
        return safe_divide(by_group.sum(), (weight.sum(-1) > 0).sum())

    def _group(self, values: Tensor) -> Tensor:
        """(B, K, H, W) -> (B, K, H*W) for a loss per image, (1, K, B*H*W) for one over the batch."""
        return values.flatten(2) if self.per_image else values.transpose(0, 1).flatten(1).unsqueeze(0)

    def _weight(self, present: Tensor, labelled: Tensor) -> Tensor:
        """The weight of each class in each group, (G, K); present (G, K) and labelled (G, 1) are bool."""
        num_classes = present.shape[1]
        if num_classes == 1:
            return labelled.float()
        if isinstance(self.classes, str):
            weight = present.float() if self.classes == "present" else labelled.float().expand_as(present)
        else:
            if not all(0 <= index < num_classes for index in self.classes):
                raise ValueError(f"classes is {self.classes}, but the logits have the classes 0..{num_classes - 1}")
            chosen = torch.zeros(num_classes, device=present.device)
            chosen[list(self.classes)] = 1.0
            weight = labelled * chosen
        return weight if self.class_weight is None else weight * self.class_weight

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, classes={self.classes!r}, per_image={self.per_image}"


@torch.no_grad()
def jaccard_steps(truth: Tensor, valid: Tensor) -> Tensor:
    """How much each pixel, in this order, raises the Jaccard loss 1 - |I| / |U| when it joins the wrong ones.

    A wrong foreground pixel leaves the intersection, a wrong background pixel joins the union. The two differences
    are written out: as differences of two numbers near 1, float32 would lose them in large batches.

    Args:
        truth: bool (..., P), the foreground.
        valid: bool (..., P), False for pixels that count as neither.

    Returns:
        float32 (..., P), not negative, at most 1 in sum.
    """
    area = truth.sum(-1, keepdim=True)
    intersection = (area - truth.cumsum(-1)).float()
    background = valid & ~truth
    union = area + background.cumsum(-1)
    before = (union - 1).clamp(min=1).float()
    union = union.clamp(min=1).float()
    step = truth / union + background * (intersection / (before * union))
    # Of an absent class nothing can be right: the first wrong pixel takes the loss from 0 to 1.
    first = torch.zeros_like(step)
    first[..., :1] = 1.0
    return torch.where(area == 0, first, step)
