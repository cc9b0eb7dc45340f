"""MobileNetV2 against torchvision and timm: same random weights through the key table, same output."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision

from segmentarium.backbones import create_backbone
from segmentarium.backbones.mobilenet_v2 import divisible_by_8
from segmentarium.weights.layouts import get_layout, recognise
from segmentarium.weights.table import load_state, to_theirs
from tests.parity.comparison import randomise, relative_error


@torch.inference_mode()
def test_equals_torchvision() -> None:
    theirs = randomise(torchvision.models.mobilenet_v2(weights=None, num_classes=10))
    layout = get_layout("mobilenet_v2/torchvision")
    assert recognise(theirs.state_dict()) is layout
    ours = create_backbone("mobilenet_v2", num_classes=10, final_conv=True).eval()
    load_state(ours, theirs.state_dict(), rules=layout.rules)
    image = torch.randn(2, 3, 97, 129)
    assert relative_error(ours.classify(image), theirs(image)) < 1e-4
    assert relative_error(ours(image)[-1], theirs.features(image)) < 1e-4
    back = to_theirs(ours.state_dict(), layout.rules)
    assert all(torch.equal(back[key], value) for key, value in theirs.state_dict().items())


@pytest.mark.parametrize(
    ("name", "timm_name", "output_stride"),
    [
        ("mobilenet_v2", "mobilenetv2_100", 32),
        ("mobilenet_v2", "mobilenetv2_100", 16),
        ("mobilenet_v2", "mobilenetv2_100", 8),
        ("mobilenet_v2_050", "mobilenetv2_050", 32),
        ("mobilenet_v2_140", "mobilenetv2_140", 16),
    ],
)
@torch.inference_mode()
def test_features_equal_timm(name: str, timm_name: str, output_stride: int) -> None:
    theirs = randomise(timm.create_model(timm_name, features_only=True, output_stride=output_stride))
    ours = create_backbone(name, output_stride=output_stride, out_indices=(0, 1, 2, 3, 4)).eval()
    load_state(ours, theirs.state_dict(), rules=get_layout("mobilenet_v2/timm").rules)
    assert list(ours.channels) == theirs.feature_info.channels()
    assert list(ours.strides) == theirs.feature_info.reduction()
    image = torch.randn(1, 3, 97, 129)
    for mine, reference in zip(ours(image), theirs(image), strict=True):
        assert relative_error(mine, reference) < 1e-4


@torch.inference_mode()
def test_classifier_equals_timm() -> None:
    theirs = randomise(timm.create_model("mobilenetv2_140", num_classes=10))
    layout = get_layout("mobilenet_v2/timm")
    arguments = layout.arguments(theirs.state_dict())
    assert arguments == {"width": 1.4, "in_channels": 3, "num_classes": 10}
    ours = create_backbone("mobilenet_v2", **arguments).eval()
    load_state(ours, theirs.state_dict(), rules=layout.rules)
    image = torch.randn(2, 3, 64, 64)
    assert relative_error(ours.classify(image), theirs(image)) < 1e-4


@pytest.mark.parametrize(
    ("name", "millions"), [("mobilenet_v2", 3.50), ("mobilenet_v2_050", 1.97), ("mobilenet_v2_140", 6.11)]
)
def test_parameters_as_published(name: str, millions: float) -> None:
    model = create_backbone(name, num_classes=1000)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.01)


def test_rounding_and_errors() -> None:
    assert [divisible_by_8(c) for c in (4, 12, 22.4, 33.6, 44.8)] == [8, 16, 24, 32, 48]
    with pytest.raises(ValueError, match="output_stride is 4"):
        create_backbone("mobilenet_v2", output_stride=4)
    with pytest.raises(ValueError, match="has no classifier; build it with num_classes"):
        create_backbone("mobilenet_v2", final_conv=True).classify(torch.randn(1, 3, 64, 64))
