"""EncNet against the recorded heads and losses of mmsegmentation and the authors; whole networks by their keys."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch

from segmentarium import create_model
from segmentarium.layers.resize import resize
from segmentarium.losses import ClassPresence, CrossEntropy
from segmentarium.meta import on_meta
from segmentarium.semantic.encnet import EncDecoder
from segmentarium.weights.layouts.encnet import authors_head, mmseg_head
from segmentarium.weights.table import load_state, to_theirs
from tests.parity.comparison import TOLERANCE, as_theirs, example, golden_state, relative_error

MMSEG = {"width": 16, "codes": 6, "align_corners": False}


@torch.inference_mode()
@pytest.mark.parametrize(
    ("name", "prefix", "rules", "classes", "arguments"),
    [
        ("encnet-head", "out", mmseg_head("", ""), 5, MMSEG),
        ("encnet-head-lateral", "out", mmseg_head("", ""), 5, {**MMSEG, "lateral": True}),
        ("encnet-loss", "out/logits", mmseg_head("", ""), 7, MMSEG),
        ("encnet-official-head", "out", authors_head("", ""), 5, {"width": 512}),
    ],
)
def test_heads(golden: ModuleType, name: str, prefix: str, rules: list, classes: int, arguments: dict) -> None:
    state, description, arrays = golden_state(golden, f"semantic/{name}")
    features = [example(golden, description, given) for given in description["inputs"]]
    head = EncDecoder(channels=[f.shape[1] for f in features], strides=[8] * 3, num_classes=classes, **arguments).eval()
    assert load_state(head, state, rules=rules).complete
    assert sum(p.numel() for p in head.parameters()) == description["parameters"]
    outputs = head.forward_train(features)
    for i, output in enumerate(("logits", "presence")):
        assert relative_error(outputs[output], torch.from_numpy(arrays[f"{prefix}/{i}"])) <= TOLERANCE
    assert torch.equal(head(features), outputs["logits"])
    back = to_theirs(head.state_dict(), rules)
    assert back.keys() == {key for key, _, _ in description["state"]}
    assert all(torch.equal(back[key], value) for key, value in state.items())
    if "out/losses" in arrays:
        target = torch.from_numpy(arrays["target/label"].astype(np.int64))
        assert (target == 255).any()
        losses = [
            CrossEntropy(average="all")(resize(outputs["logits"], target.shape[1:]), target),
            head.objective()[1].weight * ClassPresence()(outputs["presence"], target),
        ]
        assert relative_error(torch.stack(losses), torch.from_numpy(arrays["out/losses"])) <= TOLERANCE


@pytest.mark.parametrize(
    ("layout", "model", "arguments"),
    [
        ("encnet/mmseg", "encnet_resnet50", {}),
        ("encnet/mmseg", "encnet_resnet101", {"auxiliary": False, "presence": False}),
        ("encnet/authors", "encnet", {"lateral": True, "num_classes": 59}),
        ("encnet/authors", "encnet", {"backbone": "resnet101_v1s"}),
    ],
)
def test_whole_networks_are_recognised(layout: str, model: str, arguments: dict) -> None:
    as_theirs(layout, model, **arguments)


def test_published_parameters() -> None:
    with on_meta():
        model = create_model("encnet_resnet50", num_classes=19)
    assert sum(p.numel() for p in model.decoder.parameters()) == 10_000_006
