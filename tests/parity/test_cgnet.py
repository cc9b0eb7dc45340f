"""CGNet against the outputs of the authors' code."""

from __future__ import annotations

import pytest
import torch

from segmentarium.realtime.cgnet import CGNet, ContextGuidedBlock, LocalAndSurrounding
from segmentarium.registry import create_model
from segmentarium.weights import export_layout
from segmentarium.weights.layouts import get_layout, recognise
from segmentarium.weights.table import load_state
from tests.parity.comparison import example, golden_state, randomise

GOLDENS = [("cgnet", "cgnet/official", (3, 21)), ("cgnet-m2n3-odd", "cgnet/official-dropout", (2, 3))]


def load_golden(golden, name, layout_name):
    state, description, arrays = golden_state(golden, f"realtime/{name}")
    layout = get_layout(layout_name)
    arguments = layout.arguments(state)
    model = create_model(layout.model, **arguments).eval()
    report = load_state(model, state, rules=layout.rules, strict=True)
    assert report.complete
    assert len(report.loaded) == len(state)
    return model, state, arguments, example(golden, description, "x"), arrays


@pytest.mark.parametrize(("name", "layout", "blocks"), GOLDENS)
def test_equal(golden, name, layout, blocks):
    model, _, arguments, image, arrays = load_golden(golden, name, layout)
    assert arguments["blocks"] == blocks
    with torch.inference_mode():
        assert golden.relative_error(model(image).numpy(), arrays["out"]) <= 1e-4
        assert golden.relative_error(model.deploy()(image).numpy(), arrays["out"]) <= 1e-4


@pytest.mark.parametrize(("name", "layout", "blocks"), GOLDENS)
def test_recognised_and_reversible(golden, name, layout, blocks):
    model, state, *_ = load_golden(golden, name, layout)
    assert recognise(state).name == layout
    back = export_layout(model, layout)
    assert all(torch.equal(back[key], value) for key, value in state.items())


def test_the_joint_norm_is_split_over_its_convolutions():
    joint = randomise(LocalAndSurrounding(8, 2))
    x = torch.randn(2, 8, 11, 13)
    with torch.inference_mode():
        expected = joint(x)
    joint.reparameterize()
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in joint.modules())
    with torch.inference_mode():
        assert torch.allclose(joint(x), expected, atol=1e-5)


def test_a_block_adds_its_weighed_joint_feature_to_its_input():
    block = randomise(ContextGuidedBlock(16, 2, 8))
    x = torch.randn(2, 16, 9, 7)
    with torch.inference_mode():
        joint = block.joint(block.conv(x))
        weights = block.context(joint)
        assert weights.shape == (2, 16, 1, 1)
        assert torch.allclose(block(x), x + joint * weights, atol=1e-6)


def test_a_stage_needs_its_down_block():
    with pytest.raises(ValueError, match=r"\(0, 3\)"):
        CGNet(blocks=(0, 3))
