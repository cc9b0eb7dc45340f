"""The plain algebra that `benchmarks.attention` holds decoders against is theirs."""

from __future__ import annotations

import pytest
import torch

from benchmarks.attention import CASES, call, features
from tests.parity.comparison import relative_error


@pytest.mark.parametrize("name", CASES)
def test_the_plain_form_is_the_same_function(name: str) -> None:
    given = features(32, (5, 7))
    plain, ours = (CASES[name].decoder(32, form) for form in ("plain", "ours"))
    assert any("forward" in vars(module) for module in plain.modules())
    expected = call(plain, given, training=False)
    assert relative_error(call(ours, given, training=False), expected) < 1e-5
    for parameter in (
        p for kind in CASES[name].plain for m in ours.modules() if type(m) is kind for p in m.parameters()
    ):
        with torch.no_grad():
            parameter.zero_()
    # the blocks take part in the answer
    assert relative_error(call(ours, given, training=False), expected) > 1e-4
