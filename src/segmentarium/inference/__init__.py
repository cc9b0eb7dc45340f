"""Prediction: sources in, results out, on the engine of your choice.

    for result in segmentarium.predict("photos/", "person"):
        result.save("out")

`windows` and `tta` serve evaluation too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from segmentarium.lazy import lazy_names

if TYPE_CHECKING:
    from segmentarium.inference.classifier import Classification, ImageClassifier
    from segmentarium.inference.matcher import PictureMatch, match_pictures
    from segmentarium.inference.points import FoundPoints, KeypointFinder
    from segmentarium.inference.poses import PoseFinder, Poses
    from segmentarium.inference.prediction import predict
    from segmentarium.inference.predictor import Predictor
    from segmentarium.inference.result import Result
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
    "SegmentPredictor": "segments",
    "SegmentResult": "segment_result",
    "SegmentTracker": "tracking",
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
    "SegmentPredictor",
    "SegmentResult",
    "SegmentTracker",
    "match_pictures",
    "predict",
]

# mattes and exported networks do without PyTorch, which the predictor imports
__getattr__ = lazy_names(__name__, _HOME_OF)
