"""Soft Dice loss (Milletari et al., "V-Net", arXiv 1606.04797): one minus the overlap of probabilities and labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from segmentarium.labels import IGNORE_INDEX
from segmentarium.losses.base import PixelLoss, one_hot, probabilities, safe_divide


class Dice(PixelLoss):
    """1 - (2 * sum(p * y) + smooth) / (sum(p) + sum(y) + smooth) of each class, averaged over the classes.

    Args:
        classes: "present" averages over the classes that occur in the labels; "all" over every class, which also
            punishes probability given to absent ones. The foreground of K = 1 always counts.
        per_image: one overlap an image, then their mean (over images with labels), instead of one over the batch.
        smooth: added above and below; keeps small objects from swinging between 0 and 1.
        class_weight: weights of the classes in their mean (without effect for K = 1, which has one).
        ignore_index: the label that counts nowhere.
    """

    def __init__(
        self,
        classes: Literal["present", "all"] = "present",
        per_image: bool = False,
        smooth: float = 1.0,
        class_weight: Sequence[float] | Tensor | None = None,
        ignore_index: int = IGNORE_INDEX,
    ) -> None:
        super().__init__(class_weight, ignore_index)
        if classes not in ("present", "all"):
            raise ValueError(f"classes is {classes!r}; give 'present' or 'all'")
        if smooth < 0:
            raise ValueError(f"smooth is {smooth}; give 0 or more")
        self.classes = classes
        self.per_image = per_image
        self.smooth = smooth

    def compute(self, logits: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        num_classes = logits.shape[1]
        dims = (2, 3) if self.per_image else (0, 2, 3)
        truth = one_hot(labels, valid, num_classes)
        guess = probabilities(logits) * valid.unsqueeze(1)
        area = truth.sum(dims)  # (B, K), or (K,) over the whole batch
        loss = 1.0 - safe_divide(2.0 * (guess * truth).sum(dims) + self.smooth, guess.sum(dims) + area + self.smooth)

        labelled = valid.flatten(1).any(1).float()
        labelled = labelled.unsqueeze(1) if self.per_image else labelled.amax()
        weight = (area > 0).float() if self.classes == "present" and num_classes > 1 else area.new_ones(area.shape)
        if self.class_weight is not None and num_classes > 1:
            weight = weight * self.class_weight
        weight = weight * labelled
        # The mean over the classes of each image first: an image with few classes counts as much as any other.
        by_image = safe_divide((loss * weight).sum(-1), weight.sum(-1))
        return safe_divide(by_image.sum(), (weight.sum(-1) > 0).sum())

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, classes={self.classes!r}, per_image={self.per_image}, smooth={self.smooth}"
