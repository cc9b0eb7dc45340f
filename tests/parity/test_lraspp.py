"""LR-ASPP against torchvision live, and against mmsegmentation's head as its code says it, on weights under its names."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

from segmentarium.registry import create_model
from segmentarium.weights.layouts import get_layout, recognise
from segmentarium.weights.table import load_state, to_theirs
from tests.parity.comparison import randomise, relative_error


@torch.inference_mode()
def test_equals_torchvision() -> None:
    theirs = randomise(
        torchvision.models.segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=7)
    )
    state = theirs.state_dict()
    layout = recognise(state)
    assert layout.name == "lraspp/torchvision"
    ours = create_model("lraspp", **layout.arguments(state)).eval()
    load_state(ours, state, rules=layout.rules)
    assert ours.backbone.strides == (4, 8, 16, 16)
    image = torch.randn(2, 3, 97, 130)
    assert relative_error(ours(image), theirs(image)["out"]) < 1e-4
    back = to_theirs(ours.state_dict(), layout.rules)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], value) for key, value in state.items())


def conv_module(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    """mmcv's: 1×1 convolution, batch norm of epsilon 1e-3, ReLU"""
    x = F.conv2d(x, state[f"{name}.conv.weight"])
    mean, var, weight, bias = (state[f"{name}.bn.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
    return F.relu(F.batch_norm(x, mean, var, weight, bias, eps=1e-3))


def mmseg_head(state: dict[str, Tensor], features: list[Tensor]) -> Tensor:
    head = "decode_head."
    x = features[-1]
    gate = F.conv2d(F.avg_pool2d(x, 49, (16, 20)), state[f"{head}image_pool.1.conv.weight"]).sigmoid()
    gate = F.interpolate(gate, x.shape[-2:], mode="bilinear", align_corners=True)
    x = conv_module(state, f"{head}aspp_conv", x) * gate
    x = F.conv2d(x, state[f"{head}conv_up_input.weight"], state[f"{head}conv_up_input.bias"])
    for i in (1, 0):
        x = F.interpolate(x, features[i].shape[-2:], mode="bilinear")
        x = torch.cat([x, F.conv2d(features[i], state[f"{head}convs.conv{i}.weight"])], 1)
        x = conv_module(state, f"{head}conv_ups.conv_up{i}", x)
    return F.conv2d(x, state[f"{head}conv_seg.weight"], state[f"{head}conv_seg.bias"])


@pytest.mark.parametrize("arch", ["large", "small"])
@torch.inference_mode()
def test_mmseg_s_head(arch: str) -> None:
    layout = get_layout(f"lraspp_mobilenet_v3_{arch}/mmseg")
    ours = randomise(create_model(f"lraspp_mobilenet_v3_{arch}", num_classes=5))
    state = to_theirs(ours.state_dict(), layout.rules)
    assert recognise(state) is layout
    again = create_model(layout.model, **layout.arguments(state)).eval()
    load_state(again, state, rules=layout.rules)
    assert again.backbone.strides == (2, 4, 8)
    sizes = {2: (260, 356), 4: (130, 178), 8: (65, 89)}  # two windows in height, three in width
    features = [
        torch.randn(1, c, *sizes[s]) for c, s in zip(again.backbone.channels, again.backbone.strides, strict=True)
    ]
    assert relative_error(again.decoder(features), mmseg_head(state, features)) < 1e-4
