"""Prediction: sources in, results out, on the engine of your choice.

    for result in segmentarium.predict("photos/", "person"):
        result.save("out")

`windows` and `tta` serve evaluation too.
"""

from __future__ import annotations

from segmentarium.inference.predictor import Predictor, predict
from segmentarium.inference.result import Result

__all__ = ["Predictor", "Result", "predict"]
