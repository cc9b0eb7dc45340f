"""Windows of an evaluation: what is said of them is used, or refused."""

from __future__ import annotations

from typing import Any

import pytest

from segmentarium.contracts import Preprocessing
from segmentarium.evaluation import evaluate
from tests.unit.inference_material import Brightness


@pytest.mark.parametrize("windows", [None, 48])
@pytest.mark.parametrize("given", [{"tile": 32}, {"overlap": 0.5}, {"tile": 32, "mode": "whole"}])
def test_windows_without_the_mode_are_refused(windows: int | None, given: dict[str, Any]) -> None:
    model = Brightness()
    model.preprocessing = Preprocessing((0.0,) * 3, (1.0,) * 3, tile=windows, stride=windows)
    with pytest.raises(ValueError, match='tile and overlap are of windows of your own: give mode "slide"'):
        evaluate(model, [None], **given)  # type: ignore[arg-type] - nothing of it is read
