"""Scores of a classifier: how often the right class is the greatest, or among the greatest few."""

from __future__ import annotations

import torch
from torch import Tensor

from segmentarium.metrics.accumulator import Accumulator, by_name, number_of_labels


class TopK(Accumulator):
    """Counts of pictures by class: which class was given to them, and whether the right one was among the first `k`.

    `counts` is int64 (K, K + 1): `counts[target, prediction]`, and in the last column the pictures of the class that have
    it among their `k` greatest scores. A class without pictures has an accuracy of NaN and does not enter the mean.
    With num_classes = 1 (a sigmoid) there are two labels.

    Args:
        num_classes: K.
        k: at most K; fewer classes make it K.
        device: where the counts are kept and updates come from.
        threshold: a sigmoid's one score above it is label 1: 0 of logits, 0.5 of probabilities.
    """

    def __init__(
        self, num_classes: int, k: int = 5, device: torch.device | str = "cpu", *, threshold: float = 0.0
    ) -> None:
        if k < 1:
            raise ValueError(f"k is {k}; give how many of the greatest scores count, 1 or more")
        self.num_labels = number_of_labels(num_classes)
        self.k = min(k, self.num_labels)
        self.threshold = threshold
        super().__init__((self.num_labels, self.num_labels + 1), device)

    @torch.no_grad()
    def update(self, scores: Tensor, target: Tensor) -> None:
        """Add a batch: scores (B, K), logits or probabilities, and classes (B,), int64, 0..K-1.

        Of a sigmoid's one score (B, 1), nobody can tell which of the two it is: `threshold` says so.

        Raises:
            ValueError: other shapes, scores that are not numbers, or (on the CPU) classes outside 0..K-1.
        """
        if scores.ndim == 2 and scores.shape[1] == 1:  # the other class's is what it must exceed
            scores = torch.cat([torch.full_like(scores, self.threshold), scores], 1)
        if scores.ndim != 2 or scores.shape[1] != self.num_labels or target.shape != scores.shape[:1]:
            raise ValueError(
                f"scores have shape {tuple(scores.shape)} and target {tuple(target.shape)}; give (B, {self.num_labels}) "
                "scores and (B,) classes"
            )
        if not len(target):
            return
        if scores.isnan().any():
            raise ValueError("a score is NaN: there is no greatest")
        if target.device.type == "cpu" and (target.min() < 0 or target.max() >= self.num_labels):
            raise ValueError(
                f"target has classes {int(target.min())} to {int(target.max())}; give 0..{self.num_labels - 1}"
            )
        target = target.long()
        first = scores.topk(self.k, dim=1).indices
        hit = (first == target[:, None]).any(1)
        columns = self.num_labels + 1
        cells = torch.cat([target * columns + scores.argmax(1), target[hit] * columns + self.num_labels])
        self.counts += torch.bincount(cells, minlength=self.counts.numel()).view_as(self.counts)

    @property
    def confusion(self) -> Tensor:
        """`[target, prediction]`, int64 (K, K)."""
        return self.counts[:, :-1]

    def accuracy(self) -> Tensor:
        """The share of each class's pictures that was given it, float64 (K,) on the CPU; NaN where it has none."""
        confusion = self.confusion.cpu().double()
        return confusion.diagonal() / confusion.sum(1)

    def summary(self, classes: tuple[str, ...] | list[str] | None = None) -> dict[str, float | dict[str, float]]:
        """All numbers, as shares from 0 to 1; NaN where nothing was counted.

        Returns:
            top1 and top5 (or top`k`; shares of all pictures), macc (mean over the classes), accuracy (class -> value).
        """
        counts = self.counts.cpu().double()
        pictures = counts[:, :-1].sum()
        accuracy = self.accuracy()
        return {
            "top1": (counts.diagonal().sum() / pictures).item(),
            f"top{self.k}": (counts[:, -1].sum() / pictures).item(),
            "macc": accuracy.nanmean().item(),
            "accuracy": by_name(accuracy, classes),
        }
