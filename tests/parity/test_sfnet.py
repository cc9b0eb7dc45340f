"""The alignment modules of SFNet and SFNet-Lite against the authors' code.  Stored outputs of networks: test_layouts.py."""

from __future__ import annotations

import pytest
import torch

from segmentarium.layers.resize import resize
from segmentarium.realtime.sfnet import FlowAlignment, GatedDualFlow
from segmentarium.registry import create_model
from segmentarium.weights.layouts import get_layout, recognise
from segmentarium.weights.table import Rule, load_state, to_theirs
from tests.parity.comparison import example, golden_state, randomise

MODULE = tuple(
    Rule(f"{theirs}.weight", f"{ours}.weight")
    for theirs, ours in (("down_h", "high"), ("down_l", "low"), ("flow_make", "flow"), ("flow_gate.0", "gate"))
)


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("sfnet-fam", FlowAlignment(16)),
        ("sfnet-gdfam", GatedDualFlow(16, "feature")),
        ("sfnet-gdfam-atten", GatedDualFlow(16, "pooled")),
    ],
    ids=["fam", "gdfam", "gdfam-atten"],
)
@torch.inference_mode()
def test_alignment(golden, name, module):
    state, description, arrays = golden_state(golden, f"realtime/{name}")
    assert load_state(module, state, rules=MODULE, strict=True).complete
    low, high = (example(golden, description, key) for key in ("low", "high"))
    assert golden.relative_error(module(low, high).numpy(), arrays["out"]) <= 1e-4


@pytest.mark.parametrize("model_name", ["sfnet_df1", "sfnet_df2", "sfnet_lite_resnet18"])
def test_layouts_without_a_golden_are_reversible(model_name):
    layout_name = {"sfnet_df1": "sfnet/df1", "sfnet_df2": "sfnet/df2", "sfnet_lite_resnet18": "sfnet/lite"}[model_name]
    model = randomise(create_model(model_name, num_classes=3))
    layout = get_layout(layout_name)
    theirs = to_theirs(model.state_dict(), layout.rules)
    assert recognise(theirs).name == layout_name
    again = create_model(layout.model, **layout.arguments(theirs)).eval()
    load_state(again, theirs, rules=layout.rules, strict=True)
    image = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        assert torch.equal(again(image), model(image))


@torch.inference_mode()
def test_without_flow_the_coarser_map_is_only_enlarged():
    module = FlowAlignment(8)
    torch.nn.init.zeros_(module.flow.weight)
    low, high = torch.randn(1, 8, 11, 13), torch.randn(1, 8, 6, 7)
    torch.testing.assert_close(module(low, high), resize(high, (11, 13), align_corners=True), atol=1e-5, rtol=1e-5)
    assert module(low[..., :1, :1], high).shape == (1, 8, 1, 1)
