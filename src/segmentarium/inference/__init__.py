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
    from segmentarium.inference.prediction import predict
    from segmentarium.inference.predictor import Predictor
    from segmentarium.inference.result import Result

_HOME_OF = {
    "Classification": "classifier",
    "ImageClassifier": "classifier",
    "Predictor": "predictor",
    "Result": "result",
    "predict": "prediction",
}

__all__ = ["Classification", "ImageClassifier", "Predictor", "Result", "predict"]

# mattes and exported networks do without PyTorch, which the predictor imports
__getattr__ = lazy_names(__name__, _HOME_OF)
