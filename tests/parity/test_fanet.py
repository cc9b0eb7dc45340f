"""FANet against the outputs of the authors' two networks."""

from __future__ import annotations

import torch

from segmentarium.realtime.fanet import FastAttention
from segmentarium.registry import create_model
from segmentarium.weights import export_layout
from segmentarium.weights.layouts import get_layout, recognise
from segmentarium.weights.table import load_state
from tests.parity.comparison import example, golden_state, randomise


def load(golden, name, layout_name, unused):
    state, description, arrays = golden_state(golden, f"realtime/{name}")
    layout = get_layout(layout_name)
    model = create_model(layout.model, **layout.arguments(state)).eval()
    report = load_state(model, state, rules=layout.rules, strict=True)
    assert report.complete
    assert {key.rsplit(".", 2)[0] for key in report.dropped} == unused
    assert recognise(state).name == layout_name
    back = export_layout(model, layout_name)
    assert all(torch.equal(back[key], value) for key, value in state.items() if key not in report.dropped)
    return model, example(golden, description, "x"), arrays


@torch.inference_mode()
def test_the_network_for_training(golden):
    model, image, arrays = load(golden, "fanet18-train", "fanet/training", {"ffm_4.up", "ffm_8.smooth"})
    outputs = model.forward_train(image)
    assert golden.relative_error(model(image).numpy(), arrays["out/logits"]) <= 1e-4
    for stride in (16, 32):
        assert golden.relative_error(outputs[f"aux_{stride}"].numpy(), arrays[f"out/aux{stride}"]) <= 1e-4


@torch.inference_mode()
def test_the_network_for_testing(golden):
    model, image, arrays = load(golden, "fanet18", "fanet/testing", {"fam_4.up", "fam_8.smooth", "fam_32.smooth"})
    outputs = model.forward_train(image)
    assert outputs.keys() == {"logits"}
    assert golden.relative_error(outputs["logits"].numpy(), arrays["out"]) <= 1e-4


@torch.inference_mode()
def test_attention_is_the_mean_of_values_by_cosine():
    attention = randomise(FastAttention(6, keys=4))
    x = torch.randn(2, 6, 3, 5)
    query, key = (torch.nn.functional.normalize(f(x), dim=1).flatten(2) for f in (attention.query, attention.key))
    weights = query.transpose(1, 2) @ key  # (B, N, N), what the fast form never builds
    assert weights.abs().max() <= 1 + 1e-5
    mixed = (attention.value(x).flatten(2) @ weights.transpose(1, 2)).unflatten(2, (3, 5))
    torch.testing.assert_close(attention(x), attention.project(mixed) + x, atol=1e-5, rtol=1e-4)
