"""Expected calibration error (Guo et al., ICML 2017, arXiv 1706.04599): is what is 80 % sure right 80 % of the time?"""

from __future__ import annotations

import torch
from torch import Tensor

from segmentarium.labels import IGNORE_INDEX
from segmentarium.metrics.accumulator import Accumulator, check_labels, number_of_labels


class CalibrationError(Accumulator):
    """Pixels, summed confidence and right answers in bins of confidence: `counts`, float64 (3, num_bins).

    Args:
        num_classes: K; 1 means a sigmoid, whose confidence is that of the likelier answer.
        num_bins: bins of equal width from 0 to 1; 15 in the paper.
        ignore_index: the target label that counts nowhere.
        device: where updates come from.
    """

    def __init__(
        self,
        num_classes: int,
        num_bins: int = 15,
        ignore_index: int = IGNORE_INDEX,
        device: torch.device | str = "cpu",
    ) -> None:
        if num_bins < 1:
            raise ValueError(f"num_bins is {num_bins}; give 1 or more")
        self.num_classes = num_classes
        self.num_labels = number_of_labels(num_classes)
        self.num_bins = num_bins
        self.ignore_index = ignore_index
        super().__init__((3, num_bins), device, torch.float64)

    @torch.no_grad()
    def update(self, probability: Tensor, target: Tensor) -> None:
        """Add a batch: probability (B, K, H, W), after softmax or sigmoid, and target (B, H, W) of integer labels."""
        if probability.ndim != 4 or probability.shape[1] != self.num_classes:
            raise ValueError(
                f"probability has shape {tuple(probability.shape)}; give (B, {self.num_classes}, H, W) for "
                f"num_classes={self.num_classes}"
            )
        if probability.device.type == "cpu" and not bool(((probability >= 0) & (probability <= 1)).all()):
            raise ValueError("probability has values outside 0..1; give the softmax or sigmoid of the logits")
        if self.num_classes == 1:
            probability = torch.cat([1 - probability, probability], dim=1)
        confidence, prediction = probability.max(dim=1)
        check_labels(prediction, target, self.num_labels, self.ignore_index)
        valid = target != self.ignore_index
        confidence = confidence[valid].double()
        right = (prediction == target)[valid].double()
        # Bins are open below: a confidence of exactly 0.2 belongs to (0.1, 0.2].
        cell = ((confidence * self.num_bins).ceil().long() - 1).clamp(0, self.num_bins - 1)
        for row, values in zip(self.counts, (torch.ones_like(right), confidence, right), strict=True):
            row += torch.bincount(cell, weights=values, minlength=self.num_bins)

    def error(self) -> float:
        """The gap between confidence and accuracy, averaged over the bins by their pixels; NaN without any."""
        pixels, confidence, right = self.counts.cpu()
        return ((confidence - right).abs().sum() / pixels.sum()).item()

    def summary(self) -> dict[str, float | list[float]]:
        """calibration_error, and of each bin: confidence and accuracy (NaN where empty) and its share of the pixels."""
        pixels, confidence, right = self.counts.cpu()
        return {
            "calibration_error": self.error(),
            "confidence": (confidence / pixels).tolist(),
            "accuracy": (right / pixels).tolist(),
            "share": (pixels / pixels.sum()).tolist(),
        }
