"""What makes UPerNet: every pixel sees the whole picture, and levels are joined; necks; the auxiliary head's arguments."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from segmentarium import create_model
from segmentarium.layers.pyramid_neck import MultiLevelNeck
from segmentarium.semantic.upernet import UPerDecoder
from tests.parity.comparison import randomise

CHANNELS, STRIDES = (4, 6, 8, 10), (4, 8, 16, 32)


@torch.no_grad()
def test_a_corner_of_the_deepest_feature_reaches_the_opposite_one() -> None:
    decoder = UPerDecoder(channels=CHANNELS, strides=STRIDES, num_classes=3, decoder_channels=8)
    randomise(decoder)
    features = [torch.randn(1, c, 512 // s, 512 // s) for c, s in zip(CHANNELS, STRIDES, strict=True)]
    before = decoder(features)
    features[-1][..., 0, 0] += 1000
    assert (decoder(features) - before)[..., -1, -1].abs().max() > 0
    # without pooling, a change reaches as far as convolutions and interpolation do
    features[0][..., 0, 0] += 1000
    middle = decoder(features)
    features[0][..., 0, 0] -= 1000
    assert torch.equal((decoder(features) - middle)[..., 8:, 8:], torch.zeros(1, 3, 120, 120))


@torch.no_grad()
def test_every_level_is_joined_at_sizes_that_do_not_divide() -> None:
    decoder = UPerDecoder(channels=CHANNELS, strides=STRIDES, num_classes=3, decoder_channels=8)
    randomise(decoder)
    features = [torch.randn(1, c, -(-97 // s), -(-129 // s)) for c, s in zip(CHANNELS, STRIDES, strict=True)]
    whole = decoder(features)
    assert whole.shape[-2:] == (25, 33)
    for i in range(4):
        without = [x if j != i else torch.zeros_like(x) for j, x in enumerate(features)]
        assert not torch.allclose(decoder(without), whole)


@torch.no_grad()
def test_the_multilevel_neck_interpolates_by_four_two_one_and_a_half() -> None:
    neck = MultiLevelNeck((5,) * 4, (16,) * 4)
    features = [torch.randn(1, 5, 6, 5) for _ in range(4)]
    for i, (scale, feature) in enumerate(zip((4.0, 2.0, 1.0, 0.5), neck(features), strict=True)):
        lateral = neck.laterals[i](features[i])
        expected = lateral if scale == 1 else F.interpolate(lateral, scale_factor=scale, mode="bilinear")
        assert torch.allclose(feature, neck.outputs[i](expected), atol=1e-5)
    assert neck([x[..., :1, :1] for x in features])[3].shape[-2:] == (1, 1)


def test_necks_and_auxiliary_heads_are_the_user_s() -> None:
    small = {"embed_dim": 32, "depth": 4, "heads": 2, "image_size": 64}
    with torch.device("meta"):
        plain, necked = (
            create_model(
                "upernet_resnet50",
                backbone="vit_tiny_patch16_224",
                backbone_arguments=small,
                neck=neck,
                auxiliary_arguments={"decoder_channels": 12, "index": 0},
                decoder_channels=16,
                num_classes=3,
            )
            for neck in (None, "multilevel")
        )
        image = torch.empty(2, 3, 64, 96)
        assert plain.forward_train(image)["logits"].shape == (2, 3, 4, 6)
        outputs = necked.forward_train(image)
    assert outputs["logits"].shape == outputs["aux"].shape == (2, 3, 16, 24)
    assert necked.auxiliary["aux"].classifier.in_channels == 12
    with pytest.raises(ValueError, match="neck is 'fpn'; give 'pyramid', 'multilevel', 'projected', or None"):
        create_model("upernet_resnet50", neck="fpn", num_classes=3)
    with pytest.raises(ValueError, match="for plain transformers"), torch.device("meta"):
        create_model("upernet_resnet50", neck="multilevel", num_classes=3)
