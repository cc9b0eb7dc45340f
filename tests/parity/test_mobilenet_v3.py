"""MobileNetV3 against torchvision and timm: same random weights through the key table, same output."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision

from segmentarium.backbones import create_backbone
from segmentarium.weights.layouts import get_layout, recognise
from segmentarium.weights.table import load_state, to_theirs
from tests.parity.comparison import randomise, relative_error


def equal_both_ways(ours: torch.nn.Module, state: dict[str, torch.Tensor], layout: str) -> None:
    back = to_theirs(ours.state_dict(), get_layout(layout).rules)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], value) for key, value in state.items())


@pytest.mark.parametrize("arch", ["large", "small"])
@torch.inference_mode()
def test_equals_torchvision(arch: str) -> None:
    name = f"mobilenet_v3_{arch}"
    theirs = randomise(getattr(torchvision.models, name)(weights=None, num_classes=10))
    state = theirs.state_dict()
    layout = recognise(state)
    assert layout.name == f"{name}/torchvision"
    ours = create_backbone(name, **layout.arguments(state)).eval()
    load_state(ours, state, rules=layout.rules)
    image = torch.randn(2, 3, 65, 97)
    assert relative_error(ours.classify(image), theirs(image)) < 1e-4
    assert relative_error(ours(image)[-1], theirs.features(image)) < 1e-4
    equal_both_ways(ours, state, layout.name)


@pytest.mark.parametrize("arch", ["large", "small"])
@torch.inference_mode()
def test_dilated_with_half_the_tail_equals_torchvision(arch: str) -> None:
    """And its segmentation networks' features: behind the blocks that stride."""
    name = f"mobilenet_v3_{arch}"
    theirs = randomise(getattr(torchvision.models, name)(weights=None, num_classes=10, dilated=True, reduced_tail=True))
    state = theirs.state_dict()
    layout = get_layout(f"{name}/torchvision")
    arguments = layout.arguments(state)
    assert arguments["reduced_tail"]
    dilated = {"output_stride": 16, "contract_dilation": False, "strided_taps": True}
    ours = create_backbone(name, **arguments, **dilated, out_indices=(0, 1, 2, 3, 4)).eval()
    load_state(ours, state, rules=layout.rules)
    image = torch.randn(1, 3, 65, 97)
    assert relative_error(ours.classify(image), theirs(image)) < 1e-4
    strided = [i for i, block in enumerate(theirs.features) if getattr(block, "_is_cn", False)]
    taps = [*[0, *strided][:4], len(theirs.features) - 1]
    x, features = image, []
    for i, block in enumerate(theirs.features):
        x = block(x)
        if i in taps:
            features.append(x.clone())
    for mine, reference in zip(ours(image), features, strict=True):
        assert relative_error(mine, reference) < 1e-4


@pytest.mark.parametrize(
    ("timm_name", "expected"),
    [
        ("mobilenetv3_large_100", {"width": 1.0, "norm_eps": 1e-5}),
        ("mobilenetv3_large_075", {"width": 0.75}),
        ("mobilenetv3_small_075", {"width": 0.75}),
        ("mobilenetv3_small_050", {"width": 0.5, "minimal": False, "reduced_tail": False}),
        ("tf_mobilenetv3_large_minimal_100", {"minimal": True, "same_padding": True, "norm_eps": 1e-3}),
        ("tf_mobilenetv3_small_minimal_100", {"minimal": True}),
    ],
)
@torch.inference_mode()
def test_equals_timm(timm_name: str, expected: dict[str, object]) -> None:
    theirs = randomise(timm.create_model(timm_name, num_classes=10))
    state = theirs.state_dict()
    layout = recognise(state)
    arguments = layout.arguments(state)
    assert layout.name == f"mobilenet_v3_{'large' if 'large' in timm_name else 'small'}/timm"
    assert expected.items() <= arguments.items()
    assert ("preprocessing" in layout.facts(state)) == ("minimal" in timm_name)
    ours = create_backbone(layout.model, **arguments, out_indices=(0, 1, 2, 3, 4)).eval()
    load_state(ours, state, rules=layout.rules)
    for size in ((64, 97), (65, 96)):
        image = torch.randn(1, 3, *size)
        assert relative_error(ours.classify(image), theirs(image)) < 1e-4
    equal_both_ways(ours, state, layout.name)


@pytest.mark.parametrize(
    ("name", "timm_name", "output_stride", "tensorflow"),
    [
        ("mobilenet_v3_large", "mobilenetv3_large_100", 8, False),
        ("mobilenet_v3_large", "tf_mobilenetv3_large_100", 16, True),
        ("mobilenet_v3_small", "mobilenetv3_small_100", 16, False),
        ("mobilenet_v3_small", "tf_mobilenetv3_small_100", 8, True),
        ("mobilenet_v3_small_075", "tf_mobilenetv3_small_075", 32, True),
    ],
)
@torch.inference_mode()
def test_features_equal_timm(name: str, timm_name: str, output_stride: int, tensorflow: bool) -> None:
    theirs = randomise(timm.create_model(timm_name, features_only=True, output_stride=output_stride))
    same = {"same_padding": True} if tensorflow else {"norm_eps": 1e-5}
    ours = create_backbone(name, output_stride=output_stride, out_indices=(0, 1, 2, 3, 4), **same).eval()
    rules = get_layout(f"{name.removesuffix('_075')}/timm").rules
    load_state(ours, theirs.state_dict(), rules=rules)
    assert list(ours.channels) == theirs.feature_info.channels()
    assert list(ours.strides) == theirs.feature_info.reduction()
    image = torch.randn(1, 3, 66, 97)
    for mine, reference in zip(ours(image), theirs(image), strict=True):
        assert relative_error(mine, reference) < 1e-4


@pytest.mark.parametrize("arch", ["large", "small"])
def test_openmmlab_s_names(arch: str) -> None:
    ours = create_backbone(f"mobilenet_v3_{arch}", num_classes=7)
    last = 16 if arch == "large" else 12
    common = {
        "layer0.conv.weight",
        "layer2.expand_conv.conv.weight",
        "layer4.depthwise_conv.bn.running_var",
        "layer4.se.conv1.conv.bias",
        f"layer{last - 1}.se.conv2.conv.weight",
        f"layer{last}.bn.weight",
    }
    state = to_theirs(ours.state_dict(), get_layout(f"mobilenet_v3_{arch}/mmpretrain").rules)
    assert {f"backbone.{key}" for key in common} | {"head.layers.0.fc.weight", "head.layers.1.fc.bias"} <= state.keys()
    assert "backbone.layer1.expand_conv.conv.weight" not in state
    assert recognise(state).name == f"mobilenet_v3_{arch}/mmpretrain"
    bare = to_theirs(
        create_backbone(f"mobilenet_v3_{arch}").state_dict(), get_layout(f"mobilenet_v3_{arch}/mmseg").rules
    )
    assert common <= bare.keys()
    layout = recognise(bare)
    assert layout.name == f"mobilenet_v3_{arch}/mmseg"
    assert {"same_padding": True, "contract_dilation": False}.items() <= layout.arguments(bare).items()
