"""Prediction: sources in, results out, on the engine of your choice.

    for result in segmentarium.predict("photos/", "person"):
        result.save("out")

`windows` and `tta` serve evaluation too.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segmentarium.inference.predictor import Predictor, predict
    from segmentarium.inference.result import Result

__all__ = ["Predictor", "Result", "predict"]


def __getattr__(name: str) -> Any:
    # mattes and exported networks do without PyTorch, which the predictor imports
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "result" if name == "Result" else "predictor"
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value
