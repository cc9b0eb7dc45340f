"""ANN against mmsegmentation's and its authors' recorded heads; its layouts by their keys."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch

from segmentarium.semantic.ann import ANNDecoder
from segmentarium.weights.layouts import get_layout, recognise, shapes_of
from segmentarium.weights.layouts.ann import authors_head, mmseg_head
from segmentarium.weights.table import fit, load_state, to_theirs
from tests.parity.comparison import TOLERANCE, example, golden_state, relative_error


@torch.inference_mode()
@pytest.mark.parametrize(("name", "form"), [("semantic/ann-head", "mmseg"), ("semantic/ann-official-head", "authors")])
def test_head_equals_theirs(golden: ModuleType, name: str, form: str) -> None:
    state, description, outputs = golden_state(golden, name)
    rules = mmseg_head("", "") if form == "mmseg" else authors_head("")
    head = ANNDecoder(
        channels=(16, 32), strides=(8, 8), num_classes=5, decoder_channels=16, key_channels=8, form=form
    ).eval()
    assert load_state(head, state, rules=rules).complete
    assert sum(p.numel() for p in head.parameters()) == description["parameters"]
    back = to_theirs(head.state_dict(), rules)
    assert all(torch.equal(back[key], value) for key, value in state.items())
    features = [example(golden, description, key) for key in ("c3", "c4")]
    expected = torch.from_numpy(outputs["out"])
    assert relative_error(head(features), expected) <= TOLERANCE
    head.fusion.reparameterize()
    head.context.reparameterize()
    assert relative_error(head(features), expected) <= TOLERANCE


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("ann/mmseg", {"num_classes": 19}),
        ("ann/mmseg", {"num_classes": 150, "backbone": "resnet101_v1c", "auxiliary": False}),
        ("ann/authors", {"num_classes": 19, "auxiliary": False}),
    ],
)
def test_keys_are_recognised_and_read_back(name: str, arguments: dict[str, Any]) -> None:
    layout = get_layout(name)
    ours = shapes_of(layout.model, arguments)
    theirs = to_theirs(ours, layout.rules)
    if name == "ann/authors":
        assert theirs["fusion.conv_bn_dropout.0.weight"].shape == (2048, 4096, 1, 1)
        theirs |= {"dsn.0.weight": torch.empty(512, 1024, 3, 3, device="meta")}
    assert recognise(theirs) is layout
    told = shapes_of(layout.model, layout.arguments(theirs))
    fitting, report = fit(told, theirs, layout.rules)
    assert report.complete
    assert {key: value.shape for key, value in fitting.items()} == {key: value.shape for key, value in ours.items()}
