"""BiSeNet without its heads, Xception-39 alone, mmsegmentation's form.  Its stored outputs: test_layouts.py."""

from __future__ import annotations

import pytest
import torch

from segmentarium.backbones import create_backbone
from segmentarium.meta import on_meta
from segmentarium.realtime.bisenet import FeatureFusion
from segmentarium.registry import create_model
from segmentarium.weights import export_layout
from segmentarium.weights.layouts import get_layout, recognise
from segmentarium.weights.table import load_state
from tests.parity.comparison import as_theirs, loaded, randomise


def test_xception39_alone(golden):
    whole = loaded(golden, "bisenet/torchseg", "realtime/bisenetv1-x39-torchseg")
    model, state = whole.model, whole.state
    prefix = "context_path."
    alone = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    assert recognise(alone).name == "xception39/torchseg"
    backbone = create_backbone("xception39").eval()
    assert load_state(backbone, alone, rules=get_layout("xception39/torchseg").rules, strict=True).complete
    image = torch.randn(1, 3, 65, 97)
    with torch.inference_mode():
        pairs = zip(backbone(image), model.backbone(image), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


def test_without_auxiliary_heads(golden):
    whole = loaded(golden, "bisenet/torchseg", "realtime/bisenetv1-x39-torchseg")
    bare = {key: value for key, value in whole.state.items() if not key.startswith(("heads.0", "heads.1"))}
    layout = recognise(bare)
    model = create_model(layout.model, **layout.arguments(bare)).eval()
    load_state(model, bare, rules=layout.rules, strict=True)
    assert [term.name for term in model.objective] == ["logits"]
    with torch.inference_mode():
        assert torch.equal(model(whole.image), whole.outputs["forward"])


MMSEG = {"upsample": "nearest", "fusion": "norm_relu", "align_corners": False}


@pytest.mark.parametrize(
    ("backbone", "width", "auxiliary"), [("resnet18", 64, 64), ("resnet50", 256, 256), ("resnet101", 256, None)]
)
def test_mmsegmentation_s_networks(backbone: str, width: int, auxiliary: int | None) -> None:
    heads = {"head_channels": 4 * width, "auxiliary_channels": auxiliary}
    as_theirs("bisenet/mmseg", "bisenet_resnet18", num_classes=5, backbone=backbone, width=width, **heads, **MMSEG)


def test_mmsegmentation_s_names() -> None:
    with on_meta():
        keys = export_layout(create_model("bisenet_resnet18", **MMSEG), "bisenet/mmseg").keys()
    path = "backbone.context_path."
    assert {
        f"{path}backbone.layer4.1.bn2.running_var",
        f"{path}arm32.atten_conv_layer.1.bn.bias",
        f"{path}gap_conv.1.conv.weight",
        "backbone.ffm.conv_atten.0.bn.weight",
        "auxiliary_head.1.conv_seg.bias",
    } <= keys


@torch.inference_mode()
def test_mmsegmentation_s_fusion_takes_no_channel_below_a_half() -> None:
    """The ReLU before the sigmoid."""
    theirs, coincheung = (randomise(FeatureFusion(12, 8, attention=form)) for form in ("norm_relu", "norm"))
    coincheung.load_state_dict(theirs.state_dict())
    spatial, context = torch.randn(2, 4, 9, 9), torch.randn(2, 8, 9, 9)
    mixed = theirs.mix(torch.cat([spatial, context], 1))
    weights = [module(spatial, context) / mixed - 1 for module in (theirs, coincheung)]
    seen = mixed > 0.01
    assert torch.allclose(weights[0][seen], weights[1].clamp(min=0.5)[seen], atol=1e-4)
    assert (weights[1][seen] < 0.49).any()
