"""ResNeSt against timm: same random weights through the key table, same output; others' dilation by timm's parts."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from segmentarium.backbones import create_backbone
from segmentarium.registry import create_model
from segmentarium.weights.layouts import get_layout, recognise
from segmentarium.weights.table import load_state, to_theirs
from tests.parity.comparison import randomise, relative_error

ONE_BLOCK = {"layers": [1, 1, 1, 1]}  # in each stage


@pytest.mark.parametrize(
    ("timm_name", "expected"),
    [
        ("resnest14d", {"depth": 14, "deep_stem": (32, 32, 64), "radix": 2, "cardinality": 1, "base_width": 64}),
        ("resnest101e", {"depth": 14, "deep_stem": (64, 64, 128), "radix": 2, "cardinality": 1, "base_width": 64}),
        ("resnest50d_4s2x40d", {"radix": 4, "cardinality": 2, "base_width": 40, "pool_first": True}),
        ("resnest50d_1s4x24d", {"radix": 1, "cardinality": 4, "base_width": 24, "pool_first": True}),
    ],
)
@torch.inference_mode()
def test_equals_timm(timm_name: str, expected: dict[str, object]) -> None:
    theirs = randomise(timm.create_model(timm_name, num_classes=10, **ONE_BLOCK))
    state = theirs.state_dict()
    layout = recognise(state)
    arguments = layout.arguments(state)
    assert layout.name == "resnest/authors"
    assert expected.items() <= arguments.items()
    ours = create_backbone("resnest50", **arguments).eval()
    load_state(ours, state, rules=layout.rules)
    image = torch.randn(2, 3, 65, 97)
    assert relative_error(ours.classify(image), theirs(image)) < 1e-4
    back = to_theirs(ours.state_dict(), layout.rules)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], value) for key, value in state.items())


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@torch.inference_mode()
def test_features_equal_timm(output_stride: int) -> None:
    theirs = randomise(timm.create_model("resnest26d", features_only=True, output_stride=output_stride))
    ours = create_backbone("resnest26", output_stride=output_stride, out_indices=(0, 1, 2, 3, 4), form="timm").eval()
    load_state(ours, theirs.state_dict(), rules=get_layout("resnest/authors").rules)
    assert list(ours.channels) == theirs.feature_info.channels()
    assert list(ours.strides) == theirs.feature_info.reduction()
    image = torch.randn(1, 3, 65, 97)
    for mine, reference in zip(ours(image), theirs(image), strict=True):
        assert relative_error(mine, reference) < 1e-4


@pytest.mark.parametrize(("form", "pools"), [("authors", True), ("mmseg", False)])
@pytest.mark.parametrize("timm_name", ["resnest14d", "resnest50d_4s2x40d"])
@torch.inference_mode()
def test_dilation_of_other_implementations(form: str, pools: bool, timm_name: str) -> None:
    """Theirs is timm's with shortcuts that only project, and with the authors' pooling of first blocks."""
    theirs = randomise(timm.create_model(timm_name, num_classes=10, output_stride=8, **ONE_BLOCK))
    for layer in (theirs.layer3, theirs.layer4):
        layer[0].downsample[0] = nn.Identity()
        if pools:
            place = "avd_last" if timm_name == "resnest14d" else "avd_first"
            setattr(layer[0], place, nn.AvgPool2d(3, 1, 1))
    layout = get_layout("resnest/authors")
    arguments = layout.arguments(theirs.state_dict())
    ours = create_backbone("resnest50", **arguments, output_stride=8, form=form).eval()
    load_state(ours, theirs.state_dict(), rules=layout.rules)
    image = torch.randn(1, 3, 65, 97)
    assert relative_error(ours.classify(image), theirs(image)) < 1e-4


def test_mmseg_s_names() -> None:
    """Of a backbone's file: the stem in a row, no classifier; it asks for mmsegmentation's dilation."""
    layout = get_layout("resnest/mmseg")
    state = to_theirs(create_backbone("resnest14").state_dict(), layout.rules)
    assert {
        "stem.0.weight",
        "stem.7.running_var",
        "layer1.0.conv2.conv.weight",
        "layer2.0.conv2.bn0.bias",
        "layer2.0.conv2.fc1.bias",
        "layer3.0.conv2.bn1.running_mean",
        "layer3.0.conv2.fc2.weight",
        "layer4.0.downsample.1.weight",
        "layer4.0.downsample.2.weight",
    } <= state.keys()
    assert recognise(state) is layout
    assert layout.arguments(state).items() >= {"form": "mmseg", "num_classes": None, "depth": 14}.items()


@pytest.mark.parametrize("system", ["fcn", "pspnet", "deeplabv3plus"])
@pytest.mark.parametrize(
    ("backbone", "arguments"),
    [
        ("resnest101", {"form": "mmseg"}),
        ("mobilenet_v2", {"contract_dilation": False, "dilate_first_only": True, "width": 1.0, "depth": 1.0}),
    ],
)
def test_mmseg_s_networks_on_it_and_on_mobilenet_v2(system: str, backbone: str, arguments: dict[str, object]) -> None:
    with torch.device("meta"):
        wanted = {"backbone": backbone, "backbone_arguments": arguments, "auxiliary": backbone != "mobilenet_v2"}
        ours = create_model(f"{system}_resnet50", num_classes=5, **wanted)
    assert max(ours.backbone.strides) == 8
    name = f"{system}/mmseg_{backbone.removesuffix('101')}"
    state = to_theirs(ours.state_dict(), get_layout(name).rules)
    if backbone == "mobilenet_v2":
        state["auxiliary_head.conv_seg.weight"] = torch.empty(5, 256, 1, 1, device="meta")
    layout = recognise(state)
    assert layout.name == name
    read = layout.arguments(state)
    assert wanted.items() <= read.items()
    assert (read["num_classes"], read["in_channels"]) == (5, 3)
