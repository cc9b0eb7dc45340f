"""DeepLabV3's mechanisms: weights at large rates, the image beside them, what the cascade's rates are, multi-grid."""

from __future__ import annotations

import pytest
import torch

from segmentarium import create_model
from segmentarium.layers.aspp import ASPP
from segmentarium.semantic.deeplabv3 import CascadedDecoder, DeepLabV3Decoder


@torch.no_grad()
def test_a_convolution_of_the_map_s_rate_is_its_centre() -> None:
    """Section 3.3: the further the taps stand apart, the fewer fall on the map, until one of nine is left."""
    side, x = 65, torch.randn(1, 4, 65, 65)
    valid = []
    for rate in (1, 16, 32, 64, 65):
        branch = ASPP(4, 3, (rate,), separable_convs=False).branches[1].conv
        ones = torch.nn.functional.conv2d(
            torch.ones(1, 1, side, side), torch.ones(1, 1, 3, 3), padding=rate, dilation=rate
        )
        valid.append(float((ones == 9).float().mean()))
    assert valid == pytest.approx([(63 / 65) ** 2, (33 / 65) ** 2, (1 / 65) ** 2, 0, 0], abs=1e-6)
    assert torch.allclose(branch(x), torch.nn.functional.conv2d(x, branch.weight[:, :, 1:2, 1:2]), atol=1e-6)


@torch.no_grad()
def test_the_image_s_mean_reaches_where_no_rate_does() -> None:
    decoder = DeepLabV3Decoder(channels=(4,), strides=(16,), num_classes=2, decoder_channels=8).eval()
    x = torch.randn(1, 4, 41, 41)
    other = x.clone()
    other[..., 40, 40] += 50
    changed = (decoder([other]) - decoder([x]))[..., 0, 0]
    assert changed.abs().max() > 0
    # the mean's share of the projection, which stands first, does all of it
    decoder.aspp.project.conv.weight[:, :8] = 0
    assert torch.equal(decoder([other])[..., 0, 0], decoder([x])[..., 0, 0])


def test_rates_follow_the_output_stride() -> None:
    def parallel(stride: int, **more: object) -> list[int]:
        decoder = DeepLabV3Decoder(channels=(8,), strides=(stride,), num_classes=2, decoder_channels=8, **more)
        return [branch.conv.dilation[0] for branch in decoder.aspp.branches[1:]]

    assert parallel(16) == [6, 12, 18]
    assert parallel(8) == parallel(16, form="torchvision") == parallel(8, form="smp") == [12, 24, 36]
    assert parallel(8, rates=(2, 3)) == [2, 3]

    def cascaded(stride: int) -> list[list[int]]:
        decoder = CascadedDecoder(channels=(8,), strides=(stride,), num_classes=2)
        return [[unit.conv2.conv.dilation[0] for unit in copy] for copy in decoder.cascade]

    assert cascaded(16) == [[4, 8, 4], [8, 16, 8], [16, 32, 16]]
    assert cascaded(8) == [[8, 16, 8], [16, 32, 16], [32, 64, 32]]
    assert cascaded(32) == [[2, 4, 2], [4, 8, 4], [8, 16, 8]]
    with torch.device("meta"):
        models = [create_model(name) for name in ("deeplabv3", "deeplabv3_resnet101_mg124")]
    units = [[block.conv2.conv.dilation[0] for block in model.backbone.layer4] for model in models]
    assert units == [[2, 4, 8], [1, 2, 4]]
    assert {model.backbone.strides[-1] for model in models} == {16}


@torch.no_grad()
def test_copies_start_as_the_identity_and_leave_the_feature_alone() -> None:
    decoder = CascadedDecoder(channels=(8,), strides=(16,), num_classes=2).eval()
    x = torch.randn(1, 8, 9, 9).relu()
    before = x.clone()
    assert torch.equal(decoder([x]), decoder.classifier(x))
    for copy in decoder.cascade:
        for unit in copy:
            unit.last_norm().weight.fill_(1.0)
    decoder([x])
    assert torch.equal(x, before)


def test_errors_say_what_to_do() -> None:
    with pytest.raises(ValueError, match="form is 'caffe'; give one of 'paper', 'mmseg', 'torchvision', 'smp'"):
        create_model("deeplabv3", form="caffe")
    with pytest.raises(ValueError, match="the deepest feature has 6 channels"):
        CascadedDecoder(channels=(6,), strides=(16,), num_classes=2)
