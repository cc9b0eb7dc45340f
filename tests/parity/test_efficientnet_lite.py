"""EfficientNet-Lite against timm: same random weights through the key table, same output."""

from __future__ import annotations

import pytest
import timm
import torch

from segmentarium.backbones import create_backbone
from segmentarium.registry import entry
from segmentarium.weights.layouts import get_layout, recognise
from segmentarium.weights.table import load_state
from tests.parity.comparison import randomise, relative_error


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite3"])
@torch.inference_mode()
def test_equals_timm(name: str) -> None:
    theirs = randomise(timm.create_model(name, num_classes=10))
    layout = get_layout("efficientnet_lite/timm")
    assert recognise(theirs.state_dict()) is layout
    ours = create_backbone(name, **layout.arguments(theirs.state_dict()), out_indices=(0, 1, 2, 3, 4)).eval()
    load_state(ours, theirs.state_dict(), rules=layout.rules)
    image = torch.randn(1, 3, 97, 129)
    assert relative_error(ours.classify(image), theirs(image)) < 1e-4
    features = theirs.forward_intermediates(image, indices=5, intermediates_only=True)
    for mine, reference in zip(ours(image), features, strict=True):
        assert relative_error(mine, reference) < 1e-4


@pytest.mark.parametrize("output_stride", [8, 16])
@torch.inference_mode()
def test_dilated_equals_timm(output_stride: int) -> None:
    theirs = randomise(timm.create_model("efficientnet_lite0", features_only=True, output_stride=output_stride))
    ours = create_backbone("efficientnet_lite0", output_stride=output_stride, out_indices=(0, 1, 2, 3, 4)).eval()
    load_state(ours, theirs.state_dict(), rules=get_layout("efficientnet_lite/timm").rules)
    assert list(ours.strides) == theirs.feature_info.reduction()
    image = torch.randn(1, 3, 97, 129)
    for mine, reference in zip(ours(image), theirs(image), strict=True):
        assert relative_error(mine, reference) < 1e-4


@pytest.mark.parametrize("size", range(5))
def test_coefficients_are_read_off_the_weights(size: int) -> None:
    name = f"efficientnet_lite{size}"
    with torch.device("meta"):
        state = timm.create_model(name).state_dict()
        ours = create_backbone(name, num_classes=1000)
    read = get_layout("efficientnet_lite/timm").arguments(state)
    seen = {key: value for key, value in entry(name).arguments.items() if key != "dropout"}
    assert read == {"width": 1.0, "depth": 1.0, "in_channels": 3, "num_classes": 1000} | seen
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in timm.create_model(name).parameters())


def test_stages_behind_the_last_feature_are_left_out() -> None:
    model = create_backbone("efficientnet_lite0", out_indices=(1, 3)).eval()
    assert len(model.stages) == 5
    assert (model.channels, model.strides) == ((24, 112), (4, 16))
    assert [tuple(x.shape) for x in model(torch.randn(1, 3, 65, 97))] == [(1, 24, 17, 25), (1, 112, 5, 7)]
    with pytest.raises(ValueError, match="out_indices is"):
        create_backbone("efficientnet_lite0", out_indices=(5,))
    with pytest.raises(ValueError, match="output_stride is 4"):
        create_backbone("efficientnet_lite0", output_stride=4)
    with pytest.raises(ValueError, match="has no classifier; build it with num_classes"):
        model.classify(torch.randn(1, 3, 64, 64))
