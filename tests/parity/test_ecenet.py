"""ECENet against the recorded outputs of its authors' port, by both readings of its queries; the whole network by its keys."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from segmentarium.meta import on_meta
from segmentarium.semantic.ecenet import ECEDecoder, FeatureReconstruction
from segmentarium.weights.layouts.ecenet import head_rules, reconstruction_rules
from segmentarium.weights.table import load_state, to_theirs
from tests.parity.comparison import TOLERANCE, as_theirs, example, golden_state, relative_error


@torch.inference_mode()
def test_feature_reconstruction(golden: ModuleType) -> None:
    state, description, arrays = golden_state(golden, "semantic/ecenet-fr")
    block = FeatureReconstruction(16).eval()
    assert load_state(block, state, rules=reconstruction_rules("", "")).complete
    assert sum(p.numel() for p in block.parameters()) == description["parameters"]
    for i, ours in enumerate(block(example(golden, description, "x"))):
        assert relative_error(ours, torch.from_numpy(arrays[f"out/{i}"])) <= TOLERANCE


@torch.inference_mode()
@pytest.mark.parametrize(("name", "query_act"), [("ecenet-head-port", True), ("ecenet-head-noact", False)])
def test_heads(golden: ModuleType, name: str, query_act: bool) -> None:
    state, description, arrays = golden_state(golden, f"semantic/{name}")
    sizes = {"channels": (16, 24, 32, 48), "strides": (4, 8, 16, 32), "num_classes": 6, "width": 16}
    head = ECEDecoder(**sizes, query_act=query_act).eval()
    rules = head_rules("", "")
    assert load_state(head, state, rules=rules).complete
    back = to_theirs(head.state_dict(), rules)
    assert all(torch.equal(back[key], value) for key, value in state.items())
    assert sum(p.numel() for p in head.parameters()) == description["parameters"]

    features = [example(golden, description, given) for given in description["inputs"]]
    outputs = head.forward_train(features)
    stored = {"out/0": "logits", "out/1": "masks"} | {f"out/2/{i}": f"seen_{i}" for i in range(4)}
    assert stored.keys() == {key for key in arrays if key.startswith("out")}
    assert {*stored.values()} == outputs.keys()
    for array, output in stored.items():
        assert relative_error(outputs[output], torch.from_numpy(arrays[array])) <= TOLERANCE, array
    assert torch.equal(head(features), outputs["logits"])


def test_published_parameters() -> None:
    with on_meta():
        head = ECEDecoder(channels=(256, 512, 1024, 2048), strides=(4, 8, 16, 32), num_classes=19)
    assert round(sum(p.numel() for p in head.parameters()) / 1e6, 4) == 17.4603  # as counted in the port's code


def test_the_whole_network_is_recognised() -> None:
    as_theirs("ecenet/authors", "ecenet_swin_base", num_classes=150)
    as_theirs("ecenet/authors", "ecenet_swin_base", num_classes=19, width=64, heads=2, ratio=2.0)
