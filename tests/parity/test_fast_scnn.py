"""Fast-SCNN against the outputs of both public implementations."""

from __future__ import annotations

import pytest
import torch

from segmentarium.layers.resize import resize
from segmentarium.realtime.fast_scnn import FastSCNN
from segmentarium.registry import create_model
from segmentarium.weights import export_layout
from segmentarium.weights.layouts import get_layout, recognise
from segmentarium.weights.table import load_state
from tests.parity.comparison import example, golden_state


def load_golden(golden, form):
    state, description, arrays = golden_state(golden, f"realtime/fastscnn-{form}")
    layout = get_layout(f"fast_scnn/{form}")
    model = create_model(layout.model, **layout.arguments(state)).eval()
    report = load_state(model, state, rules=layout.rules, strict=True)
    assert report.complete
    assert len(report.loaded) == len(state)
    image = example(golden, description, "x")
    with torch.inference_mode():
        outputs = model.forward_train(image) | {"full": model(image)}
    return model, state, image, outputs, arrays


def assert_equal(golden, output, reference):
    assert golden.relative_error(output.numpy(), reference) <= 1e-4


def test_tramac(golden):
    _, _, image, outputs, arrays = load_golden(golden, "tramac")
    assert outputs.keys() == {"logits", "aux_8", "full"}
    assert_equal(golden, outputs["full"], arrays["out/0"])
    assert_equal(golden, resize(outputs["aux_8"], image.shape[-2:], align_corners=True), arrays["out/1"])


def test_mmseg(golden):
    _, _, image, outputs, arrays = load_golden(golden, "mmseg")
    for index, name in enumerate(("logits", "aux_32", "aux_8")):
        assert_equal(golden, outputs[name], arrays[f"out/{index}"])
    assert torch.equal(outputs["full"], resize(outputs["logits"], image.shape[-2:]))


@pytest.mark.parametrize("form", ["tramac", "mmseg"])
def test_recognised_and_reversible(golden, form):
    model, state, *_ = load_golden(golden, form)
    assert recognise(state).name == f"fast_scnn/{form}"
    back = export_layout(model, f"fast_scnn/{form}")
    assert all(torch.equal(back[key], value) for key, value in state.items())


@pytest.mark.parametrize("form", ["paper", "mmseg", "tramac"])
def test_every_form_learns_at_odd_sizes_and_deploys(form):
    model = FastSCNN(num_classes=4, form=form)
    image, target = torch.randn(2, 3, 65, 97), torch.randint(0, 4, (2, 65, 97))
    losses = model.criterion(model.forward_train(image), {"mask": target})
    assert losses.keys() == {"logits", "aux_8"} | ({"aux_32"} if form != "tramac" else set())
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    model.eval()
    deployed = model.deploy()
    assert not hasattr(deployed, "auxiliary")
    with torch.inference_mode():
        expected = model(image)
        assert (deployed(image) - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_mmsegs_loss_is_a_binary_cross_entropy_for_each_class():
    model = FastSCNN(num_classes=3, form="mmseg", auxiliary=False)
    logits, target = torch.randn(1, 3, 8, 8), torch.randint(0, 3, (1, 8, 8))
    answers = torch.nn.functional.one_hot(target, 3).permute(0, 3, 1, 2).float()
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, answers)
    assert torch.allclose(model.criterion({"logits": logits}, {"mask": target})["logits"], expected)


def test_an_unknown_form_is_named():
    with pytest.raises(ValueError, match="keras"):
        FastSCNN(form="keras")
