"""CCNet against the recorded attention and heads of the authors and of mmsegmentation; whole networks by their keys."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from segmentarium import create_model
from segmentarium.meta import on_meta
from segmentarium.semantic.ccnet import CCDecoder, CrissCrossAttention
from segmentarium.weights.layouts.ccnet import authors_head, mmseg_head
from segmentarium.weights.layouts.danet import attention_rules
from segmentarium.weights.table import load_state, to_theirs
from tests.parity.comparison import TOLERANCE, as_theirs, example, golden_state, relative_error


@torch.inference_mode()
def test_attention_alone(golden: ModuleType) -> None:
    state, description, arrays = golden_state(golden, "semantic/ccnet-attention")
    block = CrissCrossAttention(32).eval()
    assert load_state(block, state, rules=attention_rules("", "")).complete
    assert sum(p.numel() for p in block.parameters()) == description["parameters"]
    x, expected = example(golden, description, "x"), torch.from_numpy(arrays["out"])
    assert relative_error(block(x), expected) <= TOLERANCE
    assert relative_error(block(x.contiguous(memory_format=torch.channels_last)), expected) <= TOLERANCE
    block.reparameterize()
    assert relative_error(block(x), expected) <= TOLERANCE


@torch.inference_mode()
@pytest.mark.parametrize(
    ("name", "given", "rules", "arguments"),
    [
        ("ccnet-head", "c4", mmseg_head("", ""), {"width": 32}),
        ("ccnet-official-rcca", "x", authors_head("", ""), {"decoder_channels": 512, "leaky": True}),
    ],
)
def test_heads(golden: ModuleType, name: str, given: str, rules: list, arguments: dict) -> None:
    state, description, arrays = golden_state(golden, f"semantic/{name}")
    x = example(golden, description, given)
    head = CCDecoder(channels=(x.shape[1],), strides=(8,), num_classes=5, **arguments).eval()
    assert load_state(head, state, rules=rules).complete
    assert sum(p.numel() for p in head.parameters()) == description["parameters"]
    assert relative_error(head([x]), torch.from_numpy(arrays["out"])) <= TOLERANCE
    back = to_theirs(head.state_dict(), rules)
    assert back.keys() == {key for key, _, _ in description["state"]}
    assert all(torch.equal(back[key], value) for key, value in state.items())


DSN = {"dsn.0.weight": (512, 1024, 3, 3), "dsn.0.bias": (512,), "dsn.3.weight": (19, 512, 1, 1), "dsn.3.bias": (19,)}


@pytest.mark.parametrize(
    ("layout", "model", "dropped", "arguments"),
    [
        ("ccnet/mmseg", "ccnet_resnet50", {}, {}),
        ("ccnet/mmseg", "ccnet_resnet101", {}, {"auxiliary": False}),
        ("ccnet/authors", "ccnet", DSN, {"auxiliary": False}),
    ],
)
def test_whole_networks_are_recognised(layout: str, model: str, dropped: dict, arguments: dict) -> None:
    as_theirs(layout, model, dropped, **arguments)


def test_published_parameters() -> None:
    with on_meta():
        model = create_model("ccnet_resnet50", num_classes=19)
    assert sum(p.numel() for p in model.decoder.parameters()) == 23_934_100
