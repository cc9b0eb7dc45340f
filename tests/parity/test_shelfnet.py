"""ShelfNet, real-time and PASCAL form, against the outputs of the authors' code; class presence against EncNet's loss."""

from __future__ import annotations

import pytest
import torch

from segmentarium.layers.resize import resize
from segmentarium.losses import ClassPresence
from segmentarium.registry import create_model
from segmentarium.weights import export_layout
from segmentarium.weights.layouts import get_layout, recognise
from segmentarium.weights.table import load_state
from tests.parity.comparison import example, golden_state

NAMES = {
    "shelfnet18": ("shelfnet/citys", ("logits", "aux_16", "aux_32")),
    "shelfnet34": ("shelfnet/citys", ("logits", "aux_16", "aux_32")),
    "shelfnet50": ("shelfnet/pascal", ("logits", "presence", "aux_16")),
}


@pytest.mark.parametrize("name", NAMES)
def test_outputs_recognised_and_reversible(golden, name):
    layout_name, outputs = NAMES[name]
    state, description, arrays = golden_state(golden, f"realtime/{name}")
    layout = get_layout(layout_name)
    model = create_model(layout.model, **layout.arguments(state)).eval()
    report = load_state(model, state, rules=layout.rules, strict=True)
    assert report.complete
    unused = {key for key in state if "decoder.inconv" in key or key.startswith("pretrained.fc.")}
    assert set(report.dropped) == unused

    image = example(golden, description, "x")
    with torch.inference_mode():
        given = model.forward_train(image)
        assert golden.relative_error(model(image).numpy(), arrays["out/0"]) <= 1e-4
    for index, output in enumerate(outputs):
        value = given[output]
        if value.ndim == 4:
            value = resize(value, image.shape[-2:], align_corners=True)
        assert golden.relative_error(value.numpy(), arrays[f"out/{index}"]) <= 1e-4

    assert recognise(state).name == layout_name
    back = export_layout(model, layout_name)
    assert state.keys() - unused <= back.keys()
    assert all(torch.equal(back[key], state[key]) for key in state.keys() - unused)


def test_class_presence(golden):
    _, _, arrays = golden_state(golden, "semantic/encnet-loss")
    logits, target = (torch.from_numpy(arrays[key]) for key in ("out/logits/1", "target/label"))
    loss = 0.2 * ClassPresence()(logits, target)
    assert golden.relative_error(loss.numpy(), arrays["out/losses"][1]) <= 1e-4


def test_class_presence_leaves_out_images_without_labels():
    logits = torch.tensor([[2.0, -1.0, 0.5], [9.0, 9.0, 9.0]], requires_grad=True)
    target = torch.tensor([[[0, 2], [255, 0]], [[255, 255], [255, 255]]])
    loss = ClassPresence()(logits, target)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits[0], torch.tensor([1.0, 0.0, 1.0]))
    torch.testing.assert_close(loss, expected)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert not gradient[1].any()
    assert ClassPresence()(logits, torch.full_like(target, 255)) == 0
    foreground = ClassPresence()(torch.tensor([[3.0]]), torch.tensor([[[0, 1]]]))
    torch.testing.assert_close(foreground, torch.nn.functional.softplus(torch.tensor(-3.0)))
