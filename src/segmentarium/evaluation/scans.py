"""Scores of a detector in point clouds: nuScenes' and Argoverse 2's precision by distance, KITTI's by overlap in space."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from segmentarium.contracts import Boxes3d, Detector3d
from segmentarium.data.kitti import levels_of_found
from segmentarium.data.nuscenes import likely_attribute
from segmentarium.data.scans import Scan, ScanDataset
from segmentarium.evaluation.base import BaseReport, number, numbers, percent
from segmentarium.inference.scans import ScanDetector
from segmentarium.metrics.boxes_3d import ScanBoxes, argoverse_scores, kitti_scores, nuscenes_scores

NEAR = 2.0  # metres within which a labelled box counts as seen, in the table of confusions
LEAST = 0.05  # score from which on boxes are scored


@dataclass(kw_only=True, repr=False)
class ScanReport(BaseReport):
    """Scores of boxes in space; errors are in metres, radians and metres a second, all else in 0..1.

    centre     nuScenes' map, nds, mate, mase, maoe, mave, and, where attributes are labelled, maae
    composite  Argoverse 2's cds, map, ate, ase, aoe
    overlap    KITTI's ap3d, ap_above; where boxes have levels of the moderate one, and with _easy and _hard
    table      column -> class -> score
    confusion  int64 (K, K) of labelled boxes with a found one within two metres: rows the labels
    """

    counted = "labelled boxes"
    worst_text = ""

    centre: dict[str, float]
    composite: dict[str, float]
    overlap: dict[str, float]
    table_by_class: dict[str, dict[str, float]]
    boxes: dict[str, int]

    def scores(self) -> dict[str, Any]:
        return {
            **{key: number(value) for key, value in self.centre.items()},
            **{key if key == "cds" else f"argoverse_{key}": number(value) for key, value in self.composite.items()},
            **{key: number(value) for key, value in self.overlap.items()},
            "by_class": {column: numbers(values) for column, values in self.table_by_class.items()},
            "boxes": self.boxes,
            "images": self.images,
        }

    def headline(self) -> list[tuple[str, str]]:
        return [
            ("mAP", percent(self.centre["map"])),
            ("NDS" if "maae" in self.centre else "NDS without attributes", percent(self.centre["nds"])),
            ("CDS", percent(self.composite["cds"])),
            *(
                (f"AP 3-D R40{name}", percent(self.overlap[key]))
                for key, name in (
                    ("ap3d_easy", " easy"),
                    ("ap3d", " moderate" if "ap3d_easy" in self.overlap else ""),
                    ("ap3d_hard", " hard"),
                )
                if key in self.overlap
            ),
        ]

    def by_class(self) -> dict[str, dict[str, float]]:
        return self.table_by_class

    def images_line(self) -> str:
        return f"{self.images} scans"


def class_order(model: Detector3d, dataset: ScanDataset) -> list[int]:
    """Of each class of the model, which of the data set's it is, by name in any case; -1: none.

    ValueError where no name is common to both.
    """
    theirs = [name.lower() for name in dataset.info.classes]
    order = [theirs.index(name.lower()) if name.lower() in theirs else -1 for name in model.classes]
    if max(order) < 0:
        raise ValueError(
            f"the model finds {', '.join(model.classes)}, and data set {dataset.info.name!r} has "
            f"{', '.join(dataset.info.classes)}: no name is common to both"
        )
    return order


def renamed(found: Boxes3d, order: Sequence[int]) -> Boxes3d:
    """Labels of the model as the data set's; boxes of other classes left out."""
    labels = torch.tensor(order)[found.labels]
    kept = labels >= 0
    return Boxes3d(found.boxes[kept], labels[kept], found.scores[kept])


@dataclass
class ScanTally:
    """What was found and what is labelled, scan by scan; boxes are few, so they are kept.

    reach   of classes: metres from the vehicle beyond which nothing counts
    """

    classes: Sequence[str]
    reach: Mapping[str, float] = field(default_factory=dict)
    found: list[ScanBoxes] = field(default_factory=list)
    labelled: list[ScanBoxes] = field(default_factory=list)

    def add(self, scan: Scan, found: Boxes3d, area: Sequence[float]) -> None:
        """Labelled boxes count nowhere that have no extent, whose centre lies outside the area that the model looks at, or that
        are beyond their class's reach.  What was found beyond it is left out, and of KITTI what was found outside the picture."""
        ours = ScanBoxes(found.boxes.double().numpy(), found.labels.numpy(), found.scores.double().numpy())
        if scan.attributes is not None:
            speeds = np.linalg.norm(ours.boxes[:, 7:9], axis=1)
            names = [self.classes[int(label)] for label in ours.labels]
            likely = [likely_attribute(name, speed) for name, speed in zip(names, speeds.tolist(), strict=True)]
            ours = replace(ours, attributes=np.array(likely, np.int64))
        kept = self._near(scan, ours.boxes, ours.labels)
        if scan.levels is not None and scan.cameras and scan.cameras[0].size is not None:
            seen, levels = levels_of_found(ours.boxes, scan.cameras[0])
            ours, kept = replace(ours, levels=levels), kept & seen
        self.found.append(ours.those(kept))
        centre = scan.boxes[:, :2]
        counted = np.asarray(((centre >= np.array(area[:2])) & (centre <= np.array(area[3:5]))).all(1))
        counted = counted & self._near(scan, scan.boxes, scan.labels) & (scan.boxes[:, 3:6] > 0).all(1)
        if scan.counted is not None:
            counted = counted & scan.counted
        boxes, labels, levels = scan.boxes.astype(np.float64), scan.labels, scan.levels
        if scan.alike is not None and levels is not None:
            boxes = np.concatenate((boxes, scan.alike[:, :7]))
            labels = np.concatenate((labels, scan.alike[:, 7].astype(np.int64)))
            counted, levels = (np.pad(part, (0, len(scan.alike))) for part in (counted, levels))
        self.labelled.append(ScanBoxes(boxes, labels, None, counted, levels, scan.attributes))

    def _near(self, scan: Scan, boxes: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """(N,) bool: within the reach of their class."""
        reach = np.array([self.reach.get(name, np.inf) for name in self.classes])
        return np.asarray(np.linalg.norm(boxes[:, :2] - np.array(scan.centre), axis=1) < reach[labels])

    def confusion(self) -> np.ndarray:
        counts = np.zeros((len(self.classes),) * 2, np.int64)
        for found, labelled in zip(self.found, self.labelled, strict=True):
            counted = np.ones(len(labelled.labels), bool) if labelled.counted is None else labelled.counted
            for box, label in zip(labelled.boxes[counted], labelled.labels[counted], strict=True):
                away = np.linalg.norm(found.boxes[:, :2] - box[:2], axis=1)
                if len(away) and away.min() <= NEAR:
                    counts[label, found.labels[away.argmin()]] += 1
        return counts

    def scores(self) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """nuScenes', Argoverse 2's, KITTI's."""
        both = (self.found, self.labelled, self.classes)
        return nuscenes_scores(*both), argoverse_scores(*both), kitti_scores(*both)


class ScanScoring:
    """A detector and the scans that it is scored on."""

    def __init__(self, model: Detector3d, dataset: ScanDataset, threshold: float = LEAST) -> None:
        self.detector, self.dataset = ScanDetector(model, threshold), dataset
        self.order = class_order(model, dataset)
        self.tally = ScanTally(dataset.info.classes, dataset.reach)
        missing = [name for i, name in enumerate(dataset.info.classes) if i not in self.order]
        self.notes = [f"the model does not know {', '.join(missing)}: their scores are 0"] if missing else []

    def run(self, indices: Sequence[int], batch_size: int, readers: int) -> Iterator[int]:
        """Scores these scans; yields after each batch how many are done."""
        model, done = self.detector.model, 0
        with ThreadPoolExecutor(max(readers, 1)) as pool:
            for start in range(0, len(indices), batch_size):
                scans = list(pool.map(self.dataset.load, indices[start : start + batch_size]))
                for scan, found in zip(scans, self.detector(scans), strict=True):
                    self.tally.add(scan, renamed(found, self.order), model.area)
                done += len(scans)
                yield done

    def report(self, **facts: Any) -> ScanReport:
        """Of what was scored so far; `facts`: the fields that say how it was measured."""
        nuscenes, argoverse, kitti = self.tally.scores()
        names = self.dataset.info.classes
        leveled = " moderate" if "ap_easy" in kitti else ""
        columns = {
            "AP (distance)": nuscenes.pop("ap"),
            "AP Argoverse": argoverse.pop("ap"),
            **{
                f"AP 3-D R40{name}": kitti.pop(key)
                for key, name in (("ap_easy", " easy"), ("ap", leveled), ("ap_hard", " hard"))
                if key in kitti
            },
        }
        wanted = [
            scan.labels[scan.counted] if scan.counted is not None else scan.labels for scan in self.tally.labelled
        ]
        counts = np.bincount(np.concatenate(wanted) if wanted else [], minlength=len(names))
        return ScanReport(
            confusion=self.tally.confusion(),
            classes=names,
            palette=self.dataset.info.palette,
            images=len(self.tally.found),
            model_seconds=self.detector.seconds,
            centre=nuscenes,
            composite=argoverse,
            overlap=kitti,
            table_by_class={
                key: {name: values.get(name, float("nan")) for name in names} for key, values in columns.items()
            },
            boxes=dict(zip(names, counts.tolist(), strict=True)),
            **facts,
        )
