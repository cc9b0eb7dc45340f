"""Prediction: sources in, results out, on the engine of your choice.

    for result in segmentarium.predict("photos/", "person"):
        result.save("out")

`windows` and `tta` serve evaluation too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from segmentarium.lazy import lazy_names

if TYPE_CHECKING:
    from segmentarium.inference.predictor import Predictor, predict
    from segmentarium.inference.result import Result

__all__ = ["Predictor", "Result", "predict"]

# mattes and exported networks do without PyTorch, which the predictor imports
__getattr__ = lazy_names(__name__, {"Predictor": "predictor", "Result": "result", "predict": "predictor"})
