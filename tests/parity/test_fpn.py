"""Semantic FPN against mmsegmentation's recorded outputs, its pyramid against torchvision, live."""

from __future__ import annotations

from types import ModuleType

import torch
from torchvision.ops import FeaturePyramidNetwork

from segmentarium import create_model
from segmentarium.layers.fpn import FeaturePyramid
from segmentarium.meta import on_meta
from segmentarium.semantic.fpn import FPNDecoder
from segmentarium.weights.layouts import get_layout, recognise
from segmentarium.weights.layouts.fpn import mmseg_head, mmseg_neck, torchvision_neck
from segmentarium.weights.table import load_state, to_theirs
from tests.parity.comparison import TOLERANCE, example, exercised, golden_state, relative_error


@torch.inference_mode()
def test_pyramid_and_head_equal_mmsegmentation(golden: ModuleType) -> None:
    state, description, arrays = golden_state(golden, "semantic/fpn-neck-head")
    ours = FPNDecoder(
        channels=(8, 12, 16, 32), strides=(4, 8, 16, 32), num_classes=5, decoder_channels=12, pyramid_channels=16
    ).eval()
    rules = [*mmseg_neck(ours="pyramid."), *mmseg_head(ours="")]
    load_state(ours, state, rules=rules)
    back = to_theirs(ours.state_dict(), rules)
    assert all(torch.equal(back[key], value) for key, value in state.items())
    features = [example(golden, description, name) for name in ("c1", "c2", "c3", "c4")]
    for i, level in enumerate(ours.pyramid(features)):
        assert relative_error(level, torch.from_numpy(arrays[f"out/neck/{i}"])) <= TOLERANCE
    assert relative_error(ours(features), torch.from_numpy(arrays["out/logits"])) <= TOLERANCE


@torch.inference_mode()
def test_pyramid_equals_torchvision_at_odd_sizes() -> None:
    theirs = exercised(FeaturePyramidNetwork([8, 16, 24], 12))
    ours = FeaturePyramid([8, 16, 24], 12).eval()
    load_state(ours, theirs.state_dict(), rules=torchvision_neck())
    features = [torch.randn(2, 8, 21, 35), torch.randn(2, 16, 11, 18), torch.randn(2, 24, 6, 9)]
    reference = theirs(dict(enumerate(features))).values()
    for mine, level in zip(ours(features), reference, strict=True):
        assert relative_error(mine, level) <= TOLERANCE


def test_published_parameters_and_recognition() -> None:
    with on_meta():
        model = create_model("fpn_resnet101", num_classes=19)
    assert sum(p.numel() for p in model.decoder.pyramid.parameters()) == 3_344_384
    assert sum(p.numel() for p in model.decoder.parameters()) == 3_344_384 + 1_626_259
    layout = get_layout("fpn/mmseg")
    state = to_theirs(model.state_dict(), layout.rules)
    assert {"neck.lateral_convs.3.conv.bias", "decode_head.scale_heads.3.4.bn.weight"} <= state.keys()
    assert recognise(state) is layout
    assert layout.arguments(state)["backbone"] == "resnet101_v1c"
