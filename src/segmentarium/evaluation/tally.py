"""What is kept of the images that were scored: counts, and the few worst of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from segmentarium.evaluation.classes import ClassMatch
from segmentarium.evaluation.samples import Sample, check_finite
from segmentarium.evaluation.worst import BadImage, Worst, bad_image
from segmentarium.inference.tta import indices
from segmentarium.labels import IGNORE_INDEX
from segmentarium.layers.resize import resize
from segmentarium.metrics import BoundaryIoU, ConfusionMatrix

ALARM = 0.002  # share of an image's labelled pixels above which a class that is not there counts as seen


class Tally:
    """The K x K matrix, the boundary counts and the worst images so far; its size depends on no number of images.

    images, void      images seen, and how many of them had no labelled pixel
    ignored           pixels that counted nowhere
    absent, alarmed   by class: images that do not hold it, and those of them in which it is seen nevertheless
    """

    def __init__(self, match: ClassMatch, boundary_ratio: float | None, worst: int, device: torch.device) -> None:
        self.match = match
        self.matrix = ConfusionMatrix(len(match.names), IGNORE_INDEX, device)
        self.boundary: BoundaryIoU | None = None
        if boundary_ratio is not None:
            self.boundary = BoundaryIoU(len(match.names), boundary_ratio, IGNORE_INDEX, device)
        self.worst: Worst[BadImage] = Worst(worst)
        self.images = self.void = self.ignored = 0
        self.absent = torch.zeros(len(match.names), dtype=torch.int64)
        self.alarmed = torch.zeros_like(self.absent)

    @torch.inference_mode()
    def add(self, batch: Sequence[Sample], logits: Tensor) -> None:
        """Scores images of one size by their logits (B, K, h, w), at the size of their labels."""
        logits = self.match.logits(logits)
        check_finite(batch, logits)
        targets = torch.stack([s.target for s in batch]).to(logits.device)
        predicted = predicted_classes(logits, targets.shape[-2:])
        if self.boundary is not None:
            self.boundary.update(predicted, targets)
        for i, sample in enumerate(batch):
            one = ConfusionMatrix(len(self.match.names), IGNORE_INDEX, logits.device)
            one.update(predicted[i : i + 1], targets[i : i + 1])
            self.matrix.merge(one)
            self.images += 1
            counts = one.counts.cpu()
            labelled = int(counts.sum())
            self.ignored += sample.target.numel() - labelled
            if labelled:
                absent = counts.sum(1) == 0
                self.absent += absent
                self.alarmed += absent & (counts.sum(0) > ALARM * labelled)
            score = image_miou(one.counts)
            if score is None:
                self.void += 1
            elif self.worst.takes(score):
                guess = predicted[i].to(torch.uint8).cpu().numpy()
                bad = bad_image(score, sample.index, sample.name, sample.picture, sample.target.numpy(), guess)
                self.worst.add(score, sample.index, bad)

    def false_alarms(self) -> dict[str, float]:
        """By class: share of the images without it in which it takes more than `ALARM`; NaN where every image holds it."""
        return dict(zip(self.match.names, (self.alarmed / self.absent).tolist(), strict=True))


def predicted_classes(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Logits (B, K, h, w) -> classes (B, *size): at the labels' size before the greatest is taken."""
    return indices(resize(logits, size))


def image_miou(counts: Tensor) -> float | None:
    """Mean IoU over the classes that one image's label holds; None without a labelled pixel.

    counts: (K, K), rows = target. Classes that are only predicted lower the IoU of the others but have none of their own:
    one stray pixel of an absent class would else halve the score of an image of one class.
    """
    table = counts.cpu().double()
    hit, labelled = table.diagonal(), table.sum(1)
    present = labelled > 0
    if not present.any():
        return None
    union = labelled + table.sum(0) - hit
    return (hit[present] / union[present]).mean().item()
