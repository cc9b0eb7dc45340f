"""The report of a segmenter: what its label maps are worth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from segmentarium.evaluation.base import BaseReport, number, numbers, percent


@dataclass(kw_only=True, repr=False)
class Report(BaseReport):
    """Scores of a segmenter on a data set.  All shares lie in 0..1; NaN: no pixel of that class was labelled or predicted.

    miou, macc, aacc   mean IoU, mean accuracy (recall) over the classes, and the share of right pixels
    iou, acc           by class name
    boundary_iou       mean of `boundary_iou_by_class`; None where it was not asked for
    false_alarms       by class: share of the images that do not hold it in which it is predicted for more than 0.2 %
    confusion          int64 (K, K) pixels: rows the labels, columns the predictions
    void               images without a labelled pixel
    pixels, ignored    labelled pixels, and those that count nowhere (255)
    """

    counted = "labelled pixels"
    worst_text = (
        "By the mean IoU of the classes that the label holds. Image, target, prediction, errors (grey: ignored)."
    )

    miou: float
    macc: float
    aacc: float
    iou: dict[str, float]
    acc: dict[str, float]
    boundary_iou: float | None
    boundary_iou_by_class: dict[str, float] | None
    false_alarms: dict[str, float]
    void: int
    pixels: int
    ignored: int

    def scores(self) -> dict[str, Any]:
        by_class = {
            "iou": self.iou,
            "acc": self.acc,
            "boundary_iou_by_class": self.boundary_iou_by_class,
            "false_alarms": self.false_alarms,
        }
        return {
            "miou": number(self.miou),
            "macc": number(self.macc),
            "aacc": number(self.aacc),
            "boundary_iou": number(self.boundary_iou),
            **{key: numbers(values) for key, values in by_class.items()},
            "pixel_share": numbers(self.shares()),
            "images": self.images,
            "void_images": self.void,
            "pixels": self.pixels,
            "ignored_pixels": self.ignored,
        }

    def headline(self) -> list[tuple[str, str]]:
        rows = [("mIoU", percent(self.miou)), ("mAcc", percent(self.macc)), ("aAcc", percent(self.aacc))]
        return rows if self.boundary_iou is None else [*rows, ("boundary IoU", percent(self.boundary_iou))]

    def by_class(self) -> dict[str, dict[str, float]]:
        edges = self.boundary_iou_by_class
        columns = {"IoU": self.iou, "Acc": self.acc, **({} if edges is None else {"boundary IoU": edges})}
        return {**columns, "false alarms": self.false_alarms}

    def facts(self) -> dict[str, Any]:
        return {"ignored pixels": f"{self.ignored:,}", "images without a labelled pixel": self.void}

    def images_line(self) -> str:
        return f"{self.images} images" + (f" ({self.void} without a labelled pixel)" if self.void else "")
