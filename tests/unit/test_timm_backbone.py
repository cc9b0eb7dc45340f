"""timm's models keep the contract of a backbone."""

from __future__ import annotations

import pytest
import timm
import torch

from segmentarium.backbones import create_backbone
from segmentarium.export import export_formats
from segmentarium.registry import create_model

NAMES = ["resnet18", "mobilenetv3_small_050", "convnext_atto", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"]


@pytest.mark.parametrize("name", NAMES)
def test_features_at_odd_sizes(name):
    backbone = create_backbone(f"timm:{name}", in_channels=4).eval()
    with torch.inference_mode():
        features = backbone(torch.randn(1, 4, 97, 129))
    assert len(features) == len(backbone.channels) == len(backbone.strides)
    for feature, channels, stride in zip(features, backbone.channels, backbone.strides, strict=True):
        assert feature.shape == (1, channels, -(-97 // stride), -(-129 // stride))
        assert feature.isfinite().all()
    assert min(backbone.strides) >= 4


def test_equals_timm():
    backbone = create_backbone("timm:resnet18").eval()
    body = timm.create_model("resnet18", features_only=True).eval()
    body.load_state_dict(backbone.body.state_dict())
    image = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        for ours, theirs in zip(backbone(image), body(image)[1:], strict=True):
            assert torch.equal(ours, theirs)


def test_layers_behind_the_last_feature_asked_for_are_left_out():
    backbone = create_backbone("timm:efficientnet_lite0", out_indices=(1, 2, 3)).eval()
    assert (backbone.channels, backbone.strides) == ((24, 40, 112), (4, 8, 16))
    assert sum(p.numel() for p in backbone.parameters()) == 700_768
    body = timm.create_model("efficientnet_lite0", features_only=True, out_indices=(1, 2, 3)).eval()
    missing, _ = body.load_state_dict(
        {k.removeprefix("model."): v for k, v in backbone.body.state_dict().items()}, False
    )
    assert all(name.startswith(("blocks.5.", "blocks.6.")) for name in missing)
    image = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        for ours, theirs in zip(backbone(image), body(image), strict=True):
            assert torch.equal(ours, theirs)


def test_exports_at_sizes_that_no_stride_divides(tmp_path):
    model = create_model(
        "deeplabv3plus", num_classes=3, backbone="timm:resnet18", backbone_arguments={"out_indices": (1, 2, 3)}
    ).eval()
    photo = torch.rand(3, 97, 129)
    (report,) = export_formats(model, tmp_path / "model", sizes=((97, 129), (65, 90)), images=[photo])
    assert report.relative_error <= 1e-4


def test_a_file_does_not_fetch_the_weights_that_training_started_from():
    model = create_model(
        "deeplabv3plus", num_classes=3, backbone="timm:resnet18", backbone_arguments={"pretrained": False}
    )
    assert model.given_arguments["backbone_arguments"] == {}


def test_output_stride():
    assert create_backbone("timm:resnet18", output_stride=8).strides == (4, 8, 8, 8)
    with pytest.raises(ValueError, match="output"):
        create_backbone("timm:vit_tiny_patch16_224", output_stride=8)


def test_a_segmenter_on_a_transformer():
    model = create_model(
        "deeplabv3plus", backbone="timm:vit_tiny_patch16_224", num_classes=3, output_stride=None
    ).eval()
    with torch.inference_mode():
        assert model(torch.randn(1, 3, 97, 129)).shape == (1, 3, 97, 129)


def test_unknown_name():
    with pytest.raises(KeyError, match="resnet18"):
        create_backbone("timm:resnet18x")
