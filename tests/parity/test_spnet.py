"""SPNet's modules and head against their authors' recorded outputs.  The whole network: test_layouts.py."""

from __future__ import annotations

from types import ModuleType

import torch

from segmentarium.layers.strip_pooling import StripPooling
from segmentarium.semantic.spnet import MixedPooling, SPDecoder
from segmentarium.weights.layouts import get_layout, recognise, shapes_of
from segmentarium.weights.layouts.spnet import head_rules, mixed_pooling, strip_pooling
from segmentarium.weights.table import load_state, to_theirs
from tests.parity.comparison import TOLERANCE, example, golden_state, relative_error


@torch.inference_mode()
def test_strip_pooling_gives_their_weights(golden: ModuleType) -> None:
    state, description, arrays = golden_state(golden, "semantic/spnet-spm")
    module = StripPooling(16).eval()
    assert load_state(module, state, rules=strip_pooling("", "")).complete
    assert sum(p.numel() for p in module.parameters()) == description["parameters"]
    x, expected = example(golden, description, "x"), torch.from_numpy(arrays["out"])
    assert relative_error(module.weigh(module.strips(x)).sigmoid(), expected) <= TOLERANCE
    assert relative_error(module(x), x * expected) <= TOLERANCE  # theirs leaves it to the caller to multiply


@torch.inference_mode()
def test_mixed_pooling(golden: ModuleType) -> None:
    state, description, arrays = golden_state(golden, "semantic/spnet-mpm")
    module = MixedPooling(32).eval()
    assert load_state(module, state, rules=mixed_pooling("", "")).complete
    assert sum(p.numel() for p in module.parameters()) == description["parameters"]
    assert relative_error(module(example(golden, description, "x")), torch.from_numpy(arrays["out"])) <= TOLERANCE


@torch.inference_mode()
def test_head(golden: ModuleType) -> None:
    state, description, arrays = golden_state(golden, "semantic/spnet-head")
    head = SPDecoder(channels=(64,), strides=(8,), num_classes=5).eval()
    assert load_state(head, state, rules=head_rules("", "")).complete
    back = to_theirs(head.state_dict(), head_rules("", ""))
    assert all(torch.equal(back[key], value) for key, value in state.items())
    assert sum(p.numel() for p in head.parameters()) == description["parameters"]
    assert relative_error(head([example(golden, description, "c4")]), torch.from_numpy(arrays["out"])) <= TOLERANCE


def test_the_trunk_alone_is_recognised() -> None:
    layout = get_layout("spnet/trunk")
    theirs = to_theirs(shapes_of("resnet101_spm", {"num_classes": 1000}), layout.rules)
    assert "layer3.22.spm.conv3.bias" in theirs
    assert recognise(theirs) is layout
    assert layout.arguments(theirs) == {"depth": 101, "in_channels": 3, "num_classes": 1000}
