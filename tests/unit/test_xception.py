"""What makes Xception and its aligned form what they are: separable everywhere, dilated without other weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from segmentarium import create_model
from segmentarium.backbones import create_backbone
from segmentarium.backbones.xception_aligned import TINY
from segmentarium.meta import on_meta
from tests.parity.comparison import randomise, relative_error


@pytest.mark.parametrize("name", ["xception", "xception41", "xception65p"])
def test_every_convolution_across_positions_is_depthwise(name: str) -> None:
    with on_meta():
        backbone = create_backbone(name)
    wide = [key for key, m in backbone.named_modules() if isinstance(m, nn.Conv2d) and m.kernel_size != (1, 1)]
    mixing = [key for key in wide if backbone.get_submodule(key).groups == 1]
    assert {key.split(".")[0] for key in mixing} == {"stem"}
    assert len(mixing) == 2


@pytest.mark.parametrize(("name", "layers"), [("xception41", 41), ("xception65", 65), ("xception71", 71)])
def test_the_name_counts_the_layers(name: str, layers: int) -> None:
    """The stem's two convolutions and the separable ones, each as one; no shortcut and no classifier."""
    with on_meta():
        backbone = create_backbone(name)
    separable = [m for m in backbone.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert len(separable) + 2 == layers


def test_dilation_takes_the_place_of_strides() -> None:
    """The block that gives up its stride keeps the rate before it; what follows takes the product."""
    with on_meta():
        backbones = {stride: create_backbone("xception41", output_stride=stride) for stride in (32, 16, 8)}
    rates = {
        stride: [block.last.depthwise.conv.dilation[0] for block in backbone.blocks]
        for stride, backbone in backbones.items()
    }
    assert rates[32] == [1] * 13
    assert rates[16] == [1] * 12 + [2]
    assert rates[8] == [1] * 3 + [2] * 9 + [4]
    steps = [block.last.depthwise.conv.stride[0] for block in backbones[8].blocks]
    assert steps == [2, 2] + [1] * 11


def test_the_weights_are_the_same_at_every_output_stride() -> None:
    """Also Xception-71's, whose third halving has as many channels before it as behind it."""
    with on_meta():
        shapes = [
            {
                key: value.shape
                for key, value in create_backbone("xception71", output_stride=stride).state_dict().items()
            }
            for stride in (32, 8)
        ]
    assert shapes[0] == shapes[1]
    assert "blocks.4.shortcut.conv.weight" in shapes[0]


def test_deeplabv3plus_stands_on_it_as_published() -> None:
    """Output stride 16, and the low-level feature of 256 channels at stride 4 (DeepLabV3+, section 3.1)."""
    with on_meta():
        model = create_model("deeplabv3plus", backbone="xception65")
    assert model.backbone.strides == (4, 8, 16, 16)
    assert model.decoder.low.conv.in_channels == model.backbone.channels[0] == 256
    assert model.decoder.aspp.branches[0].conv.in_channels == 2048


@torch.inference_mode()
def test_a_folded_norm_leaves_the_feature_before_it_alone() -> None:
    """In the form with norms before the convolutions a feature feeds one: folded, the decoder would see another feature."""
    model = create_model("deeplabv3plus", num_classes=3, backbone="xception41p", backbone_arguments=TINY).eval()
    randomise(model)
    deployed = model.deploy()
    image = torch.randn(1, 3, 64, 96)
    for feature, reference in zip(deployed.backbone(image), model.backbone(image), strict=True):
        assert relative_error(feature, reference) < 1e-4
    norms = [key for key, m in deployed.backbone.named_modules() if isinstance(m, nn.BatchNorm2d)]
    # at the head of every block but the first, whose input is the stem's convolution, and behind the four features
    expected = {f"blocks.{i}.norm" for i in range(1, 13)} | {f"blocks.{i}.last.norm" for i in (0, 1, 2, 11)}
    assert {key.removeprefix("backbone.") for key in norms} == expected


@torch.inference_mode()
def test_features_before_and_behind_the_relu() -> None:
    before = randomise(create_backbone("xception", width=0.125, activated=False))
    behind = create_backbone("xception", width=0.125).eval()
    behind.load_state_dict(before.state_dict())
    image = torch.randn(1, 3, 64, 96)
    raw = before(image)
    assert all(feature.min() < 0 for feature in raw)
    assert all(torch.equal(a.relu(), b) for a, b in zip(raw, behind(image), strict=True))


def test_stochastic_depth_grows_and_errors_are_clear() -> None:
    backbone = create_backbone("xception41", **TINY, drop_path=0.12)
    assert [round(block.drop_path.rate, 3) for block in backbone.blocks] == [round(0.01 * i, 3) for i in range(13)]
    with pytest.raises(ValueError, match=r"depth is 39; an aligned Xception has 41, 65, 71 layers"):
        create_backbone("xception41", depth=39)
