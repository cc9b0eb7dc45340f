"""ContextNet's branches and the paper's form.  Its stored outputs: test_layouts.py."""

from __future__ import annotations

import pytest
import torch

from segmentarium.realtime.contextnet import ContextNet


@pytest.mark.parametrize("reduction", [2, 4, 8])
def test_the_deep_branch_sees_a_smaller_image(reduction):
    model = ContextNet(num_classes=3, reduction=reduction).eval()
    seen = []
    model.context.register_forward_pre_hook(lambda _module, given: seen.append(given[0].shape[-2:]))
    with torch.inference_mode():
        assert model(torch.randn(1, 3, 65, 97)).shape == (1, 3, 65, 97)
    assert seen == [(65 // reduction, 97 // reduction)]


def test_the_papers_form():
    model = ContextNet(num_classes=3, form="paper")
    assert model.fusion.depthwise.conv.dilation == (4, 4)
    assert model.detail[0].conv.padding == (1, 1)
    assert isinstance(model.detail[1].depthwise.act, torch.nn.Identity)
    assert model(torch.randn(2, 3, 65, 97)).shape == (2, 3, 65, 97)


@pytest.mark.parametrize(("argument", "value"), [("reduction", 3), ("form", "cn14")])
def test_an_unknown_variant_is_named(argument, value):
    with pytest.raises(ValueError, match=str(value)):
        ContextNet(**{argument: value})
