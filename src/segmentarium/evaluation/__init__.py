"""Scores of a model on a data set: mIoU, boundary IoU, top-1, the worst pictures, and a report of them.

report = evaluate("street", build_dataset("camvid", root, "test"))
print(report.miou, report.iou["Road"])
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from segmentarium.lazy import lazy_names

if TYPE_CHECKING:
    from segmentarium.evaluation.classes import ClassMatch, match_classes
    from segmentarium.evaluation.classification import ClassificationReport
    from segmentarium.evaluation.keypoints import PairReport
    from segmentarium.evaluation.poses import PoseReport
    from segmentarium.evaluation.probing import ProbeReport, probe
    from segmentarium.evaluation.report import Report
    from segmentarium.evaluation.score import evaluate
    from segmentarium.evaluation.segments import SegmentReport

_HOME_OF = {
    "ClassMatch": "classes",
    "ClassificationReport": "classification",
    "PairReport": "keypoints",
    "PoseReport": "poses",
    "ProbeReport": "probing",
    "Report": "report",
    "SegmentReport": "segments",
    "evaluate": "score",
    "match_classes": "classes",
    "probe": "probing",
}

__all__ = [
    "ClassMatch",
    "ClassificationReport",
    "PairReport",
    "PoseReport",
    "ProbeReport",
    "Report",
    "SegmentReport",
    "evaluate",
    "match_classes",
    "probe",
]


__getattr__ = lazy_names(__name__, _HOME_OF)
