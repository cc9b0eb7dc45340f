"""MobileNetV2 against torchvision, timm, transformers and smp: same random weights through the key table, same output."""

from __future__ import annotations

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

from segmentarium.backbones import create_backbone
from segmentarium.backbones.mobilenet_v2 import divisible_by_8
from segmentarium.registry import entry
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
        ("mobilenet_v2_120d", "mobilenetv2_120d", 32),
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


@pytest.mark.parametrize(
    ("timm_name", "width", "depth"),
    [("mobilenetv2_140", 1.4, 1.0), ("mobilenetv2_035", 0.35, 1.0), ("mobilenetv2_110d", 1.1, 1.2)],
)
@torch.inference_mode()
def test_classifier_equals_timm(timm_name: str, width: float, depth: float) -> None:
    theirs = randomise(timm.create_model(timm_name, num_classes=10))
    layout = recognise(theirs.state_dict())
    assert layout is get_layout("mobilenet_v2/timm")
    arguments = layout.arguments(theirs.state_dict())
    assert arguments == {"width": width, "depth": depth, "in_channels": 3, "num_classes": 10}
    ours = create_backbone("mobilenet_v2", **arguments).eval()
    load_state(ours, theirs.state_dict(), rules=layout.rules)
    image = torch.randn(2, 3, 64, 64)
    assert relative_error(ours.classify(image), theirs(image)) < 1e-4


@pytest.mark.parametrize(
    "name", ["mobilenet_v2_075", "mobilenet_v2_130", "mobilenet_v2_110d", "mobilenet_v2_120d", "mobilenet_v2"]
)
def test_coefficients_are_read_off_the_weights(name: str) -> None:
    with torch.device("meta"):
        ours = create_backbone(name, num_classes=3)
    layout = get_layout("mobilenet_v2/timm")
    read = layout.arguments(to_theirs(ours.state_dict(), layout.rules))
    assert {"width": 1.0, "depth": 1.0} | entry(name).arguments | {"in_channels": 3, "num_classes": 3} == read


@pytest.mark.parametrize(("width", "output_stride"), [(1.0, 32), (0.75, 8)])
@torch.inference_mode()
def test_equals_transformers(width: float, output_stride: int) -> None:
    """The authors' weights: TensorFlow's padding, at even and odd sizes, and another epsilon."""
    config = MobileNetV2Config(depth_multiplier=width, num_labels=7, output_stride=output_stride)
    theirs = randomise(MobileNetV2ForImageClassification(config))
    state = theirs.state_dict()
    layout = recognise(state)
    assert layout.name == "mobilenet_v2/transformers"
    assert layout.facts(state)["preprocessing"]["mean"] == (0.5, 0.5, 0.5)
    ours = create_backbone("mobilenet_v2", **layout.arguments(state), output_stride=output_stride).eval()
    load_state(ours, state, rules=layout.rules)
    for size in ((64, 64), (65, 98)):
        image = torch.randn(1, 3, *size)
        assert relative_error(ours.classify(image), theirs(image).logits) < 1e-4
        # theirs counts the stem's block apart
        hidden = theirs.mobilenet_v2(image, output_hidden_states=True).hidden_states
        assert relative_error(ours(image)[1], hidden[4]) < 1e-4
        assert relative_error(ours(image)[-1], hidden[-1]) < 1e-4
    back = to_theirs(ours.state_dict(), layout.rules)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], value) for key, value in state.items())


@pytest.mark.parametrize("output_stride", [16, 32])
@torch.inference_mode()
def test_equals_smp(output_stride: int) -> None:
    theirs = smp.encoders.get_encoder("mobilenet_v2", weights=None, output_stride=output_stride)
    randomise(theirs)
    layout = recognise(theirs.state_dict())
    assert layout.name == "mobilenet_v2/torchvision"
    arguments = layout.arguments(theirs.state_dict()) | {"contract_dilation": False, "output_stride": output_stride}
    ours = create_backbone("mobilenet_v2", **arguments, out_indices=(0, 1, 2, 3, 4)).eval()
    load_state(ours, theirs.state_dict(), rules=layout.rules)
    image = torch.randn(1, 3, 64, 96)
    for mine, reference in zip(ours(image), theirs(image)[1:], strict=True):
        assert relative_error(mine, reference) < 1e-4


def test_openmmlab_s_names_and_dilation() -> None:
    """mmsegmentation dilates the first block of a stage alone."""
    ours = create_backbone("mobilenet_v2", num_classes=7)
    state = to_theirs(ours.state_dict(), get_layout("mobilenet_v2/mmpretrain").rules)
    assert {
        "backbone.conv1.conv.weight",
        "backbone.layer1.0.conv.0.conv.weight",
        "backbone.layer1.0.conv.1.bn.bias",
        "backbone.layer4.3.conv.2.bn.running_mean",
        "backbone.conv2.bn.weight",
        "head.fc.bias",
    } <= state.keys()
    assert recognise(state).name == "mobilenet_v2/mmpretrain"
    bare = create_backbone("mobilenet_v2")
    state = to_theirs(bare.state_dict(), get_layout("mobilenet_v2/mmseg").rules)
    layout = recognise(state)
    assert layout.name == "mobilenet_v2/mmseg"
    dilated = create_backbone("mobilenet_v2", **layout.arguments(state), output_stride=8)
    rates = [[block.depthwise.conv.dilation[0] for block in stage] for stage in dilated.stages]
    assert rates == [[1], [1, 1], [1, 1, 1], [2, 1, 1, 1], [2, 1, 1], [4, 1, 1], [4]]


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
