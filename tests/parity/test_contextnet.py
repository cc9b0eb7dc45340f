"""ContextNet against the outputs of its public implementation."""

from __future__ import annotations

import pytest
import torch

from segmentarium.layers.resize import resize
from segmentarium.realtime.contextnet import ContextNet
from segmentarium.registry import create_model
from segmentarium.weights import export_layout
from segmentarium.weights.layouts import get_layout, recognise
from segmentarium.weights.table import load_state
from tests.parity.comparison import example, golden_state

LAYOUT = "contextnet/efficient-networks"


def load_golden(golden):
    state, description, arrays = golden_state(golden, "realtime/contextnet")
    layout = get_layout(LAYOUT)
    model = create_model(layout.model, **layout.arguments(state)).eval()
    report = load_state(model, state, rules=layout.rules, strict=True)
    assert report.complete
    assert len(report.loaded) == len(state)
    return model, state, example(golden, description, "x"), arrays


def test_equal(golden):
    model, _, image, arrays = load_golden(golden)
    with torch.inference_mode():
        logits = model(image)
        trained = model.forward_train(image)
    assert golden.relative_error(logits.numpy(), arrays["out"]) <= 1e-4
    assert trained.keys() == {"logits"}  # the golden has no auxiliary head
    assert torch.equal(resize(trained["logits"], image.shape[-2:], align_corners=True), logits)


def test_recognised_and_reversible(golden):
    model, state, *_ = load_golden(golden)
    assert recognise(state).name == LAYOUT
    back = export_layout(model, LAYOUT)
    assert all(torch.equal(back[key], value) for key, value in state.items())


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
