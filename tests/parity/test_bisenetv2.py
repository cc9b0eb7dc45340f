"""BiSeNet V2 against the outputs of both public implementations."""

from __future__ import annotations

import pytest
import torch

from segmentarium.layers.resize import resize
from segmentarium.registry import create_model
from segmentarium.weights import export_layout
from segmentarium.weights.layouts import get_layout, recognise
from segmentarium.weights.table import load_state


def load_golden(golden, name, layout_name):
    description, arrays = golden.load(name)
    state = {key: torch.from_numpy(value) for key, value in golden.state_dict(description, arrays).items()}
    layout = get_layout(layout_name)
    model = create_model(layout.model, **layout.arguments(state)).eval()
    report = load_state(model, state, rules=layout.rules, strict=True)
    assert report.complete
    assert len(report.loaded) == len(state)
    image = torch.from_numpy(golden.example_input("x", description["inputs"]["x"]))
    with torch.inference_mode():
        outputs = model.forward_train(image) | {"full": model(image)}
    return model, state, image, outputs, arrays


def assert_equal(golden, output, reference):
    assert golden.relative_error(output.numpy(), reference) <= 1e-4


@pytest.mark.parametrize("name", ["bisenetv2-coincheung-aux", "bisenetv2-coincheung-eval"])
def test_coincheung(golden, name):
    _, _, image, outputs, arrays = load_golden(golden, f"realtime/{name}", "bisenetv2/coincheung")
    assert_equal(golden, outputs["full"], arrays["out/0"])
    for index, output in enumerate(("logits", "aux_4", "aux_8", "aux_16", "aux_32")):
        if f"out/{index}" in arrays:
            assert_equal(golden, resize(outputs[output], image.shape[-2:]), arrays[f"out/{index}"])


def test_mmseg(golden):
    _, _, _, outputs, arrays = load_golden(golden, "realtime/bisenetv2-mmseg", "bisenetv2/mmseg")
    assert_equal(golden, outputs["logits"], arrays["out/logits"])
    for index, output in enumerate(("aux_4", "aux_8", "aux_16", "aux_32")):
        assert_equal(golden, outputs[output], arrays[f"out/aux{index}"])


@pytest.mark.parametrize(
    ("name", "layout"),
    [("bisenetv2-coincheung-aux", "bisenetv2/coincheung"), ("bisenetv2-mmseg", "bisenetv2/mmseg")],
)
def test_recognised_and_reversible(golden, name, layout):
    model, state, *_ = load_golden(golden, f"realtime/{name}", layout)
    assert recognise(state).name == layout
    back = export_layout(model, layout)
    assert all(torch.equal(back[key], value) for key, value in state.items())
