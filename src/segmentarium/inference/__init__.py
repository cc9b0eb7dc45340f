"""Prediction: sources in, results out, on the engine of your choice.

    for result in segmentarium.predict("photos/", "person"):
        result.save("out")

`windows` and `tta` serve evaluation too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from segmentarium.lazy import lazy_names

if TYPE_CHECKING:
    from segmentarium.inference.adaptation import adapt
    from segmentarium.inference.classifier import Classification, ImageClassifier
    from segmentarium.inference.matcher import PictureMatch, match_pictures
    from segmentarium.inference.points import FoundPoints, KeypointFinder
    from segmentarium.inference.poses import PoseFinder, Poses
    from segmentarium.inference.prediction import predict
    from segmentarium.inference.predictor import Predictor
    from segmentarium.inference.result import Result
    from segmentarium.inference.scans import ScanDetector
    from segmentarium.inference.segment_result import SegmentResult
    from segmentarium.inference.segments import SegmentPredictor
    from segmentarium.inference.tracking import SegmentTracker

_HOME_OF = {
    "Classification": "classifier",
    "FoundPoints": "points",
    "ImageClassifier": "classifier",
    "KeypointFinder": "points",
    "PictureMatch": "matcher",
    "PoseFinder": "poses",
    "Poses": "poses",
    "Predictor": "predictor",
    "Result": "result",
    "ScanDetector": "scans",
    "SegmentPredictor": "segments",
    "SegmentResult": "segment_result",
    "SegmentTracker": "tracking",
    "adapt": "adaptation",
    "match_pictures": "matcher",
    "predict": "prediction",
}

__all__ = [
    "Classification",
    "FoundPoints",
    "ImageClassifier",
    "KeypointFinder",
    "PictureMatch",
    "PoseFinder",
    "Poses",
    "Predictor",
    "Result",
    "ScanDetector",
    "SegmentPredictor",
    "SegmentResult",
    "SegmentTracker",
    "adapt",
    "match_pictures",
    "predict",
]

# mattes and exported networks do without PyTorch, which the predictor imports
__getattr__ = lazy_names(__name__, _HOME_OF)
