"""DANet against the recorded heads and losses of mmsegmentation and the authors; whole networks by their keys."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from segmentarium import create_model
from segmentarium.layers.resize import resize
from segmentarium.losses import CrossEntropy
from segmentarium.meta import on_meta
from segmentarium.semantic.danet import DADecoder, PositionAttention
from segmentarium.weights.layouts.danet import attention_rules, authors_head, mmseg_head
from segmentarium.weights.table import load_state, to_theirs
from tests.parity.comparison import TOLERANCE, as_theirs, example, golden_state, relative_error


def _head(golden: ModuleType, name: str, rules: list, **arguments: int) -> tuple[dict[str, Tensor], dict, DADecoder]:
    state, description, arrays = golden_state(golden, name)
    channels = description["inputs"]["c4"][1]
    head = DADecoder(channels=(channels,), strides=(8,), num_classes=5, **arguments).eval()
    assert load_state(head, state, rules=rules).complete
    assert sum(p.numel() for p in head.parameters()) == description["parameters"]
    back = to_theirs(head.state_dict(), rules)
    assert back.keys() == {key for key, _, _ in description["state"]}
    assert all(torch.equal(back[key], value) for key, value in state.items())
    return head.forward_train([example(golden, description, "c4")]), arrays, head


@torch.inference_mode()
@pytest.mark.parametrize(
    ("name", "prefix", "rules", "arguments"),
    [
        ("danet-head", "out", mmseg_head("", ""), {"width": 16, "attention_channels": 4}),
        ("danet-loss", "out/logits", mmseg_head("", ""), {"width": 16, "attention_channels": 4}),
        ("danet-official-head", "out", authors_head("", ""), {}),
    ],
)
def test_heads(golden: ModuleType, name: str, prefix: str, rules: list, arguments: dict) -> None:
    outputs, arrays, head = _head(golden, f"semantic/{name}", rules, **arguments)
    for i, output in enumerate(("logits", "position", "channel")):
        assert relative_error(outputs[output], torch.from_numpy(arrays[f"{prefix}/{i}"])) <= TOLERANCE
    if "out/losses" in arrays:
        target = torch.from_numpy(arrays["target/label"].astype(np.int64))
        loss = CrossEntropy(average="all")  # mmsegmentation's way with ignored pixels
        losses = [loss(resize(outputs[o], target.shape[1:]), target) for o in ("channel", "position", "logits")]
        assert relative_error(torch.stack(losses), torch.from_numpy(arrays["out/losses"])) <= TOLERANCE
        assert [term.weight for term in head.objective()] == [1, 1, 1]


@torch.inference_mode()
def test_position_attention_alone(golden: ModuleType) -> None:
    state, description, arrays = golden_state(golden, "semantic/danet-pam")
    block = PositionAttention(32).eval()
    assert load_state(block, state, rules=attention_rules("", "")).complete
    x, expected = example(golden, description, "x"), torch.from_numpy(arrays["out"])
    assert relative_error(block(x), expected) <= TOLERANCE
    block.reparameterize()
    assert relative_error(block(x), expected) <= TOLERANCE


@pytest.mark.parametrize(
    ("layout", "model", "arguments"),
    [
        ("danet/mmseg", "danet_resnet50", {}),
        ("danet/mmseg", "danet_resnet101", {"auxiliary": False}),
        ("danet/authors", "danet", {}),
        ("danet/authors_deep_stem", "danet", {"backbone": "resnet50_v1s"}),
    ],
)
def test_whole_networks_are_recognised(layout: str, model: str, arguments: dict) -> None:
    as_theirs(layout, model, **arguments)


def test_published_parameters() -> None:
    with on_meta():
        model = create_model("danet_resnet50", num_classes=19)
    assert sum(p.numel() for p in model.decoder.parameters()) == 23_954_619


def test_the_last_stage_has_the_authors_rates() -> None:
    with on_meta():
        model = create_model("danet", num_classes=19)
    rates = [block.conv2.conv.dilation[0] for block in model.backbone.layer4]
    assert rates == [4, 8, 16]
    assert [block.conv2.conv.dilation[0] for block in model.backbone.layer3][:2] == [1, 2]
