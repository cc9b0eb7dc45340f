"""HRNet: what the exchange gives each branch, what is left out where it is not asked for; HRNetV2's head as published."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segmentarium.backbones import create_backbone
from segmentarium.backbones.hrnet import Exchange
from segmentarium.semantic.hrnetv2 import HRNetV2Decoder
from tests.parity.comparison import randomise, relative_error

TINY = {"width": 4, "modules": (1, 1, 2), "blocks": 1, "bottlenecks": 1, "bottleneck_width": 4}


def branches(*widths: int, size: tuple[int, int]) -> list[torch.Tensor]:
    """Random features, each half as large as the one before, rounded up as a strided convolution does."""
    height, width = size
    found = []
    for channels in widths:
        found.append(torch.rand(1, channels, height, width))
        height, width = -(-height // 2), -(-width // 2)
    return found


@torch.no_grad()
def test_every_branch_receives_every_other() -> None:
    module = randomise(Exchange((4, 8, 16), 1, 3, "nearest"))
    given = branches(4, 8, 16, size=(16, 24))
    before = module(given)
    for changed in range(3):
        other = [x + 1 if i == changed else x for i, x in enumerate(given)]
        after = module(other)
        assert all(not torch.allclose(a, b) for a, b in zip(before, after, strict=True))
    assert [tuple(x.shape) for x in before] == [tuple(x.shape) for x in given]
    assert all(bool((x >= 0).all()) for x in before)


@torch.no_grad()
def test_a_coarser_branch_is_repeated_or_interpolated() -> None:
    """With paths that pass one channel on, the finest branch is its own map and the enlarged coarse one."""
    for upsample in ("nearest", "bilinear", "aligned"):
        module = Exchange((1, 1), 0, 1, upsample).eval()
        path = module.fuse[0][1]
        nn.init.ones_(path.conv.weight)
        path.norm = nn.Identity()
        for size in ((8, 12), (7, 11)):
            fine, coarse = branches(1, 1, size=size)
            (found,) = module([fine, coarse])
            if upsample == "nearest":
                larger = coarse.repeat_interleave(2, 2).repeat_interleave(2, 3)[..., : size[0], : size[1]]
            else:
                larger = F.interpolate(coarse, size, mode="bilinear", align_corners=upsample == "aligned")
            assert torch.allclose(found, fine + larger)


def test_a_halving_is_a_convolution_each() -> None:
    module = Exchange((4, 8, 16), 1, 3, "nearest")
    path = module.fuse[2][0]
    assert [(layer.conv.in_channels, layer.conv.out_channels, layer.conv.stride) for layer in path] == [
        (4, 4, (2, 2)),
        (4, 16, (2, 2)),
    ]
    assert [type(layer.act) for layer in path] == [nn.ReLU, nn.Identity]


def test_given_maps_are_not_changed() -> None:
    module = Exchange((2, 2), 0, 2, "nearest").eval()
    given = branches(2, 2, size=(8, 8))
    copies = [x.clone() for x in given]
    module(given)
    assert all(torch.equal(a, b) for a, b in zip(given, copies, strict=True))


@torch.inference_mode()
def test_what_is_not_asked_for_is_not_computed() -> None:
    whole = randomise(create_backbone("hrnet_w18_small", **TINY))
    finest = create_backbone("hrnet_w18_small", **TINY, out_indices=(0,)).eval()
    assert len(finest.stages[-1][-1].fuse) == 1
    assert len(finest.stages[-1][0].fuse) == 4
    finest.load_state_dict({key: whole.state_dict()[key] for key in finest.state_dict()})
    image = torch.randn(1, 3, 64, 96)
    assert torch.equal(finest(image)[0], whole(image)[0])
    # a classifier sees all branches, whatever features are asked for
    assert len(create_backbone("hrnet_w18_small", **TINY, out_indices=(0,), num_classes=3).stages[-1][-1].fuse) == 4
    with pytest.raises(ValueError, match="upsample is 'cubic'"):
        create_backbone("hrnet_w18_small", upsample="cubic")


@pytest.mark.parametrize("align_corners", [False, True])
@torch.inference_mode()
def test_the_head_is_the_published_one(align_corners: bool) -> None:
    """Maps joined at the finest size, then mixed: what the paper draws, and what ours equals branch by branch."""
    widths = (4, 8, 16, 32)
    decoder = randomise(
        HRNetV2Decoder(channels=widths, strides=(4, 8, 16, 32), num_classes=3, align_corners=align_corners)
    )
    features = branches(*widths, size=(17, 23))
    joined = torch.cat([F.interpolate(x, (17, 23), mode="bilinear", align_corners=align_corners) for x in features], 1)
    expected = decoder.classifier(decoder.norm(decoder.fuse(joined)).relu())
    assert relative_error(decoder(features), expected) < 1e-5
    decoder.reparameterize()
    assert isinstance(decoder.norm, nn.Identity)
    assert relative_error(decoder(features), expected) < 1e-5
    decoder.reparameterize()  # a second time changes nothing
    assert relative_error(decoder(features), expected) < 1e-5
