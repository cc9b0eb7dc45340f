"""GCNet against mmsegmentation's recorded heads and timm's block; its layouts by their keys."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from timm.layers import GlobalContext as TimmContext  # type: ignore[attr-defined]

from segmentarium.semantic.gcnet import GCDecoder, GlobalContext
from segmentarium.weights.layouts import get_layout, recognise, shapes_of
from segmentarium.weights.layouts.gcnet import mmseg_head
from segmentarium.weights.table import fit, load_state, to_theirs
from tests.parity.comparison import TOLERANCE, example, exercised, golden_state, relative_error


@torch.inference_mode()
@pytest.mark.parametrize(
    ("name", "fusion"), [("semantic/gcnet-head", ["add"]), ("semantic/gcnet-head-mul-add", ["add", "multiply"])]
)
def test_head_equals_mmsegmentation(golden: ModuleType, name: str, fusion: list[str]) -> None:
    state, description, outputs = golden_state(golden, name)
    head = GCDecoder(channels=(32,), strides=(8,), num_classes=5, decoder_channels=16, fusion=fusion).eval()
    assert load_state(head, state, rules=mmseg_head("", "")).complete
    assert sum(p.numel() for p in head.parameters()) == description["parameters"]
    back = to_theirs(head.state_dict(), mmseg_head("", ""))
    assert all(torch.equal(back[key], value) for key, value in state.items())
    logits = head([example(golden, description, "c4")])
    assert relative_error(logits, torch.from_numpy(outputs["out"])) <= TOLERANCE


@torch.inference_mode()
@pytest.mark.parametrize("attention", [True, False])
@pytest.mark.parametrize("fusion", [("add",), ("multiply",), ("add", "multiply")])
def test_block_equals_timm_s(attention: bool, fusion: tuple[str, ...]) -> None:
    theirs: Any = exercised(
        TimmContext(32, attention, fuse_add="add" in fusion, fuse_scale="multiply" in fusion, rd_ratio=1 / 4)
    )
    ours: Any = GlobalContext(32, 1 / 4, "attention" if attention else "average", fusion)
    for mine, name in ((ours.add, "mlp_add"), (ours.multiply, "mlp_scale")):
        if mine is not None:
            layers = getattr(theirs, name)
            layers.norm.eps = mine[1].eps  # 1e-6 there; mmsegmentation has PyTorch's
            for a, b in ((mine[0], layers.fc1), (mine[1], layers.norm), (mine[3], layers.fc2)):
                a.load_state_dict(b.state_dict())
    if attention:
        ours.attention.load_state_dict(theirs.conv_attn.state_dict())
    x = torch.randn(2, 32, 9, 12)
    assert relative_error(ours(x), theirs(x)) < 1e-5


BLOCK = {"block": "gcnet", "at": "every", "after": "conv3", "ratio": 1 / 16, "pooling": "attention", "fusion": ("add",)}
BLOCKS = {"insertions": [{"stage": stage, **BLOCK} for stage in (2, 3, 4)]}


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("gcnet/mmseg", {"num_classes": 19}),
        ("gcnet/mmseg", {"num_classes": 150, "backbone": "resnet101_v1c", "auxiliary": False}),
        ("mask_rcnn/mmdet", {"num_classes": 80, **BLOCKS}),
        ("cascade_mask_rcnn/mmdet", {"num_classes": 80, "backbone": "resnext101_32x4d", **BLOCKS}),
    ],
)
def test_keys_are_recognised_and_read_back(name: str, arguments: dict[str, Any]) -> None:
    layout = get_layout(name)
    ours = shapes_of(layout.model, arguments)
    theirs = to_theirs(ours, layout.rules)
    if "insertions" in arguments:
        assert "backbone.layer2.0.context_block.channel_add_conv.1.weight" in theirs
        assert not any(key.startswith("backbone.layer1.0.context_block") for key in theirs)
    assert recognise(theirs) is layout
    told = shapes_of(layout.model, layout.arguments(theirs))
    fitting, report = fit(told, theirs, layout.rules)
    assert report.complete
    assert {key: value.shape for key, value in fitting.items()} == {key: value.shape for key, value in ours.items()}
