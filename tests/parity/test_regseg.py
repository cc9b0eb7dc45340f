"""RegSeg against the outputs of its author's code: network, loss, and both sizes' layouts of weights."""

from __future__ import annotations

import pytest
import torch

from segmentarium.registry import create_model
from segmentarium.weights import export_layout
from segmentarium.weights.layouts import get_layout, recognise
from segmentarium.weights.table import load_state
from tests.parity.comparison import example, loaded


@torch.inference_mode()
def test_the_features(golden):
    case = loaded(golden, "regseg/exp48_decoder26", "realtime/regseg-exp48-decoder26")
    for feature, name in zip(case.model.encoder(case.image), ("body4", "body8", "body16"), strict=True):
        assert golden.relative_error(feature.numpy(), case.arrays[f"out/{name}"]) <= 1e-4


def test_the_objective_is_the_bootstrapped_cross_entropy(golden):
    description, arrays = golden.load("realtime/regseg-bootstrapped-ce")
    logits = (2 * example(golden, description, "logits")).requires_grad_()
    model = create_model("regseg", num_classes=5)
    losses = model.criterion({"logits": logits}, {"mask": torch.from_numpy(arrays["target/labels"])})
    (gradient,) = torch.autograd.grad(losses["logits"], logits)
    assert golden.relative_error(losses["logits"].detach().numpy(), arrays["out/loss"]) <= 1e-4
    assert golden.relative_error(gradient[..., ::4, ::4].numpy(), arrays["out/grad_logits"]) <= 1e-4


def test_the_larger_network_has_the_size_and_the_keys_of_the_author_s():
    model = create_model("regseg_large").eval()
    parameters = sum(p.numel() for p in model.parameters())
    assert parameters / 1e6 == pytest.approx(6.1316, abs=5e-5)  # RegSeg("exp53_decoder29", 19)
    state = export_layout(model, "regseg/exp53_decoder29")
    assert {"body.stage4.0.conv1.weight", "body.stage16.13.conv2.convs.1.weight", "decoder.head4.bn.bias"} <= set(state)
    assert recognise(state).name == "regseg/exp53_decoder29"
    again = create_model("regseg_large").eval()
    assert load_state(again, state, rules=get_layout("regseg/exp53_decoder29").rules, strict=True).complete
    image = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(again(image), model(image))
