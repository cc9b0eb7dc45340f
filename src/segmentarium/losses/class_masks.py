"""Losses of masks that belong to classes from the beginning: query c is class c, or nothing (SegViT, arXiv 2210.05844).

There is no matching: where the picture shows class c, query c must say so and its mask must cover it; where it does not, the
query must say "none", and its mask is free.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.labels import IGNORE_INDEX
from segmentarium.layers.resize import resize
from segmentarium.losses.base import safe_divide

Ignored = Literal["excluded", "background"]


class ClassMaskLoss(nn.Module):
    """What these losses share: which classes a picture shows, and what its ignored pixels are.

    ignored        "excluded": they count nowhere, and a picture of them alone does not either; "background": they belong to no
                   class and are outside of every mask, as in the authors' code
    first          label of the first class (1 of a lone foreground); others are outside of every mask, such as earlier tasks'
    ignore_index   the label of ignored pixels
    """

    def __init__(self, ignored: Ignored = "excluded", first: int = 0, ignore_index: int = IGNORE_INDEX) -> None:
        super().__init__()
        if ignored not in ("excluded", "background"):
            raise ValueError(f"ignored is {ignored!r}; give 'excluded' or 'background'")
        self.ignored, self.first, self.ignore_index = ignored, first, ignore_index

    def read(self, target: Tensor, num_classes: int) -> tuple[Tensor, Tensor, Tensor]:
        """(B, H, W) -> numbers of the classes (B, H·W), -1 where there is none of these, and which pixels count; the classes
        (B, K) that each picture shows."""
        labels = target.flatten(1).long()
        known = labels != self.ignore_index
        labels = labels - self.first
        inside = known & (labels >= 0) & (labels < num_classes)
        shown = torch.zeros(len(labels), num_classes + 1, dtype=torch.bool, device=labels.device)
        shown.scatter_(1, labels.masked_fill(~inside, num_classes), True)
        counts = known if self.ignored == "excluded" else torch.ones_like(known)
        return labels.masked_fill(~inside, -1), counts, shown[:, :num_classes]

    def extra_repr(self) -> str:
        return f"ignored={self.ignored!r}, first={self.first}, ignore_index={self.ignore_index}"


class ClassOrNone(ClassMaskLoss):
    """Cross entropy of the queries' answers (B, K, K + 1), the last "none", against the classes of a label map (B, H, W): a mean
    in which absent classes weigh `none_weight`."""

    def __init__(self, none_weight: float = 0.1, **own: object) -> None:
        super().__init__(**own)  # type: ignore[arg-type]
        self.none_weight = none_weight

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """-> a float32 scalar"""
        num_classes = logits.shape[1]
        if logits.ndim != 3 or logits.shape[2] != num_classes + 1 or target.ndim != 3:
            raise ValueError(
                f"answers have shape {tuple(logits.shape)} and target {tuple(target.shape)}; "
                "give (B, K, K + 1), a query for each class, and a label map (B, H, W)"
            )
        _, counts, shown = self.read(target, num_classes)
        wanted = torch.arange(num_classes, device=logits.device).expand_as(shown).masked_fill(~shown, num_classes)
        with torch.autocast(logits.device.type, enabled=False):
            loss = F.cross_entropy(logits.float().transpose(1, 2), wanted, reduction="none")
            weight = torch.where(shown, 1.0, self.none_weight) * counts.any(1, keepdim=True)
            return safe_divide((loss * weight).sum(), weight.sum())


class MasksOfClasses(ClassMaskLoss):
    """A loss of the masks of the classes that a picture shows, resized to the label map, its mean over all of them.

    A subclass gives `compute`.
    """

    def forward(self, masks: Tensor, target: Tensor) -> Tensor:
        """mask logits (B, K, h, w), target (B, H, W) -> a float32 scalar, 0 where no class is shown"""
        if masks.ndim != 4 or target.ndim != 3:
            raise ValueError(
                f"masks have shape {tuple(masks.shape)} and target {tuple(target.shape)}; give (B, K, h, w) and (B, H, W)"
            )
        numbers, counts, shown = self.read(target, masks.shape[1])
        picture, number = shown.nonzero(as_tuple=True)
        with torch.autocast(masks.device.type, enabled=False):
            logits = resize(masks[picture, number].float()[:, None], target.shape[-2:]).flatten(1)
            truth = (numbers[picture] == number[:, None]).float()
            return self.compute(logits, truth, counts[picture].float()).sum() / max(len(picture), 1)

    def compute(self, logits: Tensor, truth: Tensor, counts: Tensor) -> Tensor:
        """Of N masks of P pixels, (N, P) each -> (N,)"""
        raise NotImplementedError


class ClassMaskFocal(MasksOfClasses):
    """Sigmoid focal loss (1708.02002) of each mask, alpha 0.25 and gamma 2, its mean over the pixels that count."""

    alpha, gamma = 0.25, 2.0

    def compute(self, logits: Tensor, truth: Tensor, counts: Tensor) -> Tensor:
        loss = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        probability = logits.sigmoid()
        error = probability + truth - 2 * probability * truth
        weight = counts * (1 - self.alpha + (2 * self.alpha - 1) * truth)
        return safe_divide((weight * error**self.gamma * loss).sum(1), counts.sum(1))


class ClassMaskDice(MasksOfClasses):
    """One minus the overlap of each mask's probabilities and labels (1606.04797), with one pixel added above and below."""

    def compute(self, logits: Tensor, truth: Tensor, counts: Tensor) -> Tensor:
        guess = logits.sigmoid() * counts
        return 1 - (2 * (guess * truth).sum(1) + 1) / (guess.sum(1) + truth.sum(1) + 1)
