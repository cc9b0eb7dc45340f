"""ShuffleNetV2 against torchvision, and the layouts of mmpretrain; the authors' stored outputs run in test_layouts."""

from __future__ import annotations

import pytest
import torch
import torchvision

from segmentarium import create_model
from segmentarium.backbones import create_backbone
from segmentarium.backbones.shufflenet_v1 import BYTES
from segmentarium.preprocessing import Preprocessing
from segmentarium.weights.layouts import get_layout, recognise
from segmentarium.weights.table import load_state, to_theirs
from tests.parity.comparison import golden_state, randomise, relative_error


@pytest.mark.parametrize(("size", "name"), [("0_5", "_050"), ("1_0", ""), ("1_5", "_150"), ("2_0", "_200")])
@torch.inference_mode()
def test_v2_equals_torchvision(size: str, name: str) -> None:
    theirs = randomise(getattr(torchvision.models, f"shufflenet_v2_x{size}")(weights=None, num_classes=10))
    state = theirs.state_dict()
    layout = recognise(state)
    assert layout is get_layout("shufflenet_v2/torchvision")
    ours = create_backbone("shufflenet_v2", **layout.arguments(state), out_indices=range(5)).eval()
    assert create_model(f"shufflenet_v2{name}").backbone.channels == ours.channels[1:]
    load_state(ours, state, rules=layout.rules)
    image = torch.randn(2, 3, 97, 65)
    assert relative_error(ours.classify(image), theirs(image)) < 1e-4
    x = theirs.conv1(image)
    expected = [x]
    for step in (theirs.maxpool, theirs.stage2, theirs.stage3, theirs.stage4):
        expected.append(step(expected[-1]))
    for mine, reference in zip(ours(image), expected, strict=True):
        assert relative_error(mine, reference) < 1e-4
    back = to_theirs(ours.state_dict(), layout.rules)
    assert all(torch.equal(back[key], value) for key, value in state.items())


# of their configurations, one unit with a stride and one without
MMPRETRAIN = {
    "shufflenet_v1": [
        "backbone.conv1.conv.weight",
        "backbone.conv1.bn.running_var",
        "backbone.layers.0.0.g_conv_1x1_compress.conv.weight",
        "backbone.layers.1.7.depthwise_conv3x3_bn.bn.weight",
        "backbone.layers.2.3.g_conv_1x1_expand.bn.bias",
        "head.fc.weight",
        "head.fc.bias",
    ],
    "shufflenet_v2": [
        "backbone.conv1.conv.weight",
        "backbone.layers.0.0.branch1.1.conv.weight",
        "backbone.layers.1.7.branch2.1.bn.running_mean",
        "backbone.layers.2.3.branch2.2.bn.bias",
        "backbone.layers.3.conv.weight",
        "backbone.layers.3.bn.weight",
        "head.fc.bias",
    ],
}


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("shufflenet_v1", {"form": "mmpretrain", "groups": 3, "width": 1.0}),
        ("shufflenet_v1", {"form": "mmpretrain", "groups": 8, "width": 0.5}),
        ("shufflenet_v2", {"form": "torchvision", "width": 1.5}),
    ],
)
def test_mmpretrain_is_recognised_both_ways(name: str, given: dict) -> None:
    layout = get_layout(f"{name}/mmpretrain")
    ours = create_backbone(name, **given, num_classes=7)
    state = to_theirs(ours.state_dict(), layout.rules)
    assert state.keys() >= set(MMPRETRAIN[name])
    assert recognise(state) is layout
    assert layout.arguments(state) == {**given, "in_channels": 3, "num_classes": 7}
    assert load_state(create_backbone(name, **layout.arguments(state)), state, rules=layout.rules).complete


@pytest.mark.parametrize("name", ["shufflenetv1-0.5x-g3", "shufflenetv2-0.5x-features"])
def test_the_authors_images_are_bytes_blue_first(golden, name: str) -> None:
    """A picture through our preprocessing, red first, gives what theirs gives for its bytes, blue first."""
    state, _, _ = golden_state(golden, f"backbone/{name}")
    layout = recognise(state)
    assert layout.name.endswith("/megvii")
    ours = create_backbone(layout.model, **layout.arguments(state)).eval()
    load_state(ours, state, rules=layout.rules)
    picture = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    theirs = torch.nn.functional.conv2d(picture.flip(1).float(), state["first_conv.0.weight"], stride=2, padding=1)
    with torch.inference_mode():
        assert relative_error(ours.stem.conv(ours.preprocessing.normalise(picture)), theirs) < 1e-5


def test_the_form_says_how_images_are_normalised() -> None:
    assert create_backbone("shufflenet_v1").preprocessing == BYTES
    assert create_model("shufflenet_v2", form="megvii").preprocessing == BYTES
    usual = Preprocessing(crop_size=224, crop_ratio=0.875)
    assert create_model("shufflenet_v2").preprocessing == usual
    assert create_backbone("shufflenet_v1", form="mmpretrain").preprocessing == usual
