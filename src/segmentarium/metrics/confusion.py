"""The confusion matrix, and what is read off it: IoU, accuracy, their means."""

from __future__ import annotations

import torch
from torch import Tensor

from segmentarium.labels import IGNORE_INDEX
from segmentarium.metrics.accumulator import Accumulator, by_name, check_labels, number_of_labels


class ConfusionMatrix(Accumulator):
    """How many pixels of each class were given which class: `counts[target, prediction]`, int64 (K, K).

    A class that occurs neither in the targets nor in the predictions has an IoU of NaN and does not enter the mean,
    as in mmsegmentation. With num_classes = 1 (a sigmoid) there are two labels, background and foreground.

    Args:
        num_classes: K.
        ignore_index: the target label that counts nowhere.
        device: where the matrix is kept and updates come from.
    """

    def __init__(self, num_classes: int, ignore_index: int = IGNORE_INDEX, device: torch.device | str = "cpu") -> None:
        self.num_labels = number_of_labels(num_classes)
        self.ignore_index = ignore_index
        super().__init__((self.num_labels, self.num_labels), device)

    @torch.no_grad()
    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add a batch: prediction (B, H, W) and target (B, H, W), integer labels."""
        check_labels(prediction, target, self.num_labels, self.ignore_index)
        size = self.num_labels**2
        cell = target.long() * self.num_labels + prediction.long()
        # Ignored pixels go to one cell more, which is then cut off: cheaper than selecting the others.
        cell = cell.masked_fill(target == self.ignore_index, size)
        self.counts += torch.bincount(cell.flatten(), minlength=size + 1)[:size].view_as(self.counts)

    def iou(self) -> Tensor:
        """Intersection over union of each class, float64 (K,) on the CPU; NaN where a class never occurs."""
        counts = self.counts.cpu().double()
        hits = counts.diagonal()
        return hits / (counts.sum(0) + counts.sum(1) - hits)

    def accuracy(self) -> Tensor:
        """The share of each class's pixels that was found (recall), float64 (K,); NaN where it has none."""
        counts = self.counts.cpu().double()
        return counts.diagonal() / counts.sum(1)

    def summary(self, classes: tuple[str, ...] | list[str] | None = None) -> dict[str, float | dict[str, float]]:
        """All numbers, as shares from 0 to 1; NaN where nothing was counted.

        Args:
            classes: names of the classes; without them, their indices.

        Returns:
            miou (mean IoU), macc (mean accuracy), aacc (share of all pixels that is right), fwiou (IoU weighted by the
            frequency of the classes), iou and accuracy (class name -> value).
        """
        counts = self.counts.cpu().double()
        iou, accuracy = self.iou(), self.accuracy()
        share = counts.sum(1) / counts.sum()
        return {
            "miou": iou.nanmean().item(),
            "macc": accuracy.nanmean().item(),
            "aacc": (counts.diagonal().sum() / counts.sum()).item(),
            # A class without pixels has the weight 0, whatever its IoU.
            "fwiou": (share * iou.nan_to_num(0.0)).sum().item(),
            "iou": by_name(iou, classes),
            "accuracy": by_name(accuracy, classes),
        }
