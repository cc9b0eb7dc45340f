"""LVIS's average precision: COCO's, where of most classes nobody knows whether a picture shows them.

A. Gupta, P. Dollár, R. Girshick, "LVIS: A Dataset for Large Vocabulary Instance Segmentation", CVPR 2019,
https://arxiv.org/abs/1908.03195.  The numbers are those of the package `lvis`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from segmentarium.metrics.average_precision import AveragePrecision, LabelledObject
from segmentarium.rle import Patch

MOST = 300  # detections of a picture that count, of all classes together
GROUPS = {"r": "rare", "c": "common", "f": "frequent"}


class FederatedAveragePrecision(AveragePrecision):
    """`AveragePrecision` of a federated data set, also by how frequent classes are in training.

    Args:
        frequency: of each class "r", "c" or "f".
        kinds, dilation_ratio: as of `AveragePrecision`.
        most: detections that count in a picture, the surest first, whatever their classes.
    """

    def __init__(
        self,
        frequency: Sequence[str],
        kinds: Sequence[str] = ("mask", "box"),
        dilation_ratio: float = 0.02,
        most: int = MOST,
    ) -> None:
        if strange := sorted(set(frequency) - set(GROUPS)):
            raise ValueError(f"frequencies are r, c and f, one a class; {', '.join(map(str, strange))} is none of them")
        super().__init__(len(frequency), kinds, dilation_ratio, most)
        self.frequency = np.array(frequency)

    def update(
        self,
        labels: np.ndarray | Sequence[int],
        scores: np.ndarray | Sequence[float],
        masks: Sequence[Patch],
        target: np.ndarray,
        objects: Sequence[LabelledObject],
        boxes: np.ndarray | None = None,
        uncertain: Collection[int] = (),
        negative: Collection[int] = (),
    ) -> None:
        """Add a picture, as `AveragePrecision.update` does.

        Args:
            negative: classes that the picture does not show.  Detections of classes that it is not known to show, nor not to
                show, count nowhere.
            uncertain: classes of which not all objects are labelled.
        """
        label, score = np.asarray(labels, np.int64).reshape(-1), np.asarray(scores, np.float64).reshape(-1)
        if not len(label) == len(score) == len(masks):
            raise ValueError(f"{len(label)} labels, {len(score)} scores and {len(masks)} masks; give as many of each")
        surest = np.argsort(-score, kind="stable")[: self.most]
        known = {*negative, *(one.label for one in objects)}
        kept = [int(place) for place in surest if int(label[place]) in known]
        given = None if boxes is None else np.asarray(boxes, np.float64)[kept]
        super().update(label[kept], score[kept], [masks[i] for i in kept], target, objects, given, uncertain)

    def summary(self, classes: Sequence[str] | None = None) -> dict[str, Any]:
        """As of `AveragePrecision`, and ap_rare, ap_common, ap_frequent of each kind of overlap."""
        found = super().summary(classes)
        for kind in self.kinds:
            start = "" if kind == "mask" else f"{kind}_"
            precision = self.by_class(kind)[:, 0].mean(1)
            for letter, group in GROUPS.items():
                values = precision[(self.frequency == letter) & ~np.isnan(precision)]
                found[f"{start}ap_{group}"] = float(values.mean()) if values.size else float("nan")
        return found
