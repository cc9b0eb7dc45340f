"""Xception and its aligned form against timm and segmentation-models-pytorch, DeepLabV3+ on it included."""

from __future__ import annotations

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from torch import Tensor

from segmentarium import create_model
from segmentarium.backbones import create_backbone
from segmentarium.weights.layouts import get_layout, recognise
from segmentarium.weights.layouts.xception_aligned import aligned_rules, preact_rules
from segmentarium.weights.table import load_state, to_theirs
from tests.parity.comparison import randomise, relative_error


def assert_reversible(ours: torch.nn.Module, state: dict[str, Tensor], layout_name: str) -> None:
    back = to_theirs(ours.state_dict(), get_layout(layout_name).rules)
    assert all(torch.equal(back[key], value) for key, value in state.items())


@torch.inference_mode()
def test_xception_equals_timm() -> None:
    theirs = randomise(timm.create_model("legacy_xception", num_classes=5))
    state = theirs.state_dict()
    layout = recognise(state)
    assert layout.name == "xception/timm"
    arguments = layout.arguments(state)
    assert arguments == {"in_channels": 3, "num_classes": 5, "padded_stem": False}
    ours = create_backbone("xception", **arguments, out_indices=range(5)).eval()
    load_state(ours, state, rules=layout.rules)
    image = torch.randn(1, 3, 99, 83)
    assert relative_error(ours.classify(image), theirs(image)) < 1e-4
    for mine, reference in zip(ours(image), theirs.forward_intermediates(image, intermediates_only=True), strict=True):
        assert relative_error(mine, reference) < 1e-4
    assert_reversible(ours, state, layout.name)


@torch.inference_mode()
def test_xception_equals_smp() -> None:
    theirs = randomise(smp.encoders.get_encoder("xception", weights=None))
    state = theirs.state_dict()
    layout = recognise(state)
    ours = create_backbone("xception", **layout.arguments(state), out_indices=range(5)).eval()
    load_state(ours, state, rules=layout.rules)
    image = torch.randn(1, 3, 96, 64)
    for mine, reference in zip(ours(image), theirs(image)[1:], strict=True):
        assert relative_error(mine, reference) < 1e-4


@pytest.mark.parametrize(
    ("name", "output_stride"),
    [
        ("xception41", 16),
        ("xception65", 8),
        ("xception71", 16),
        ("xception41p", 8),
        ("xception65p", 32),
    ],
)
@torch.inference_mode()
def test_aligned_features_equal_timm(name: str, output_stride: int) -> None:
    theirs = randomise(timm.create_model(name, features_only=True, output_stride=output_stride))
    ours = create_backbone(name, output_stride=output_stride, out_indices=range(5)).eval()
    rules = preact_rules if name.endswith("p") else aligned_rules
    load_state(ours, theirs.state_dict(), rules=rules(dot="_"))
    assert list(ours.channels) == theirs.feature_info.channels()
    assert list(ours.strides) == theirs.feature_info.reduction()
    image = torch.randn(1, 3, 65, 97)
    for mine, reference in zip(ours(image), theirs(image), strict=True):
        assert relative_error(mine, reference) < 1e-4


@pytest.mark.parametrize(
    ("timm_name", "layout_name", "arguments"),
    [
        ("xception71", "xception_aligned/timm", {"depth": 71, "preact": False, "norm_eps": 1e-3}),
        ("xception41p", "xception_aligned/timm_preact", {"depth": 41, "preact": True, "norm_eps": 1e-5}),
    ],
)
@torch.inference_mode()
def test_aligned_classifiers_equal_timm(timm_name: str, layout_name: str, arguments: dict) -> None:
    theirs = randomise(timm.create_model(timm_name, num_classes=5, in_chans=4))
    state = theirs.state_dict()
    layout = recognise(state)
    assert layout.name == layout_name
    assert layout.arguments(state) == {**arguments, "in_channels": 4, "num_classes": 5}
    model = create_model(timm_name, num_classes=5, in_channels=4).eval()
    load_state(model.backbone, state, rules=layout.rules)
    image = torch.randn(1, 4, 65, 97)
    expected = theirs(image)
    assert relative_error(model(image), expected) < 1e-4
    assert relative_error(model.deploy()(image), expected) < 1e-4
    assert_reversible(model.backbone, state, layout_name)


@pytest.mark.parametrize(("encoder", "output_stride"), [("xception41", 16), ("xception65", 8)])
@torch.inference_mode()
def test_deeplabv3plus_equals_smp(encoder: str, output_stride: int) -> None:
    theirs = smp.DeepLabV3Plus(
        f"tu-{encoder}", encoder_weights=None, classes=5, encoder_output_stride=output_stride, decoder_channels=32
    )
    state = randomise(theirs).state_dict()
    layout = recognise(state)
    assert layout.name == "deeplabv3plus/smp_xception"
    arguments = layout.arguments(state)
    assert arguments["backbone"] == encoder
    ours = create_model("deeplabv3plus", **arguments, output_stride=output_stride).eval()
    load_state(ours, state, rules=layout.rules)
    image = torch.randn(1, 3, 64, 96)
    assert relative_error(ours(image), theirs(image)) < 1e-4
    assert_reversible(ours, state, layout.name)
