"""PP-HumanSeg against the outputs of the authors' network in PaddleSeg."""

from __future__ import annotations

import torch

from segmentarium.registry import create_model
from segmentarium.weights import export_layout
from segmentarium.weights.layouts import get_layout, recognise
from segmentarium.weights.table import load_state

LAYOUT = "pphumanseg/paddleseg"


def load_golden(golden):
    description, arrays = golden.load("portrait/pphumanseg-lite")
    state = {key: torch.from_numpy(value) for key, value in golden.state_dict(description, arrays).items()}
    layout = get_layout(LAYOUT)
    model = create_model(layout.model, **layout.arguments(state)).eval()
    report = load_state(model, state, rules=layout.rules, strict=True)
    image = torch.from_numpy(golden.example_input("image", description["inputs"]["image"]))
    return model, state, report, image, arrays["out/0"]


def test_output_equals_the_authors(golden):
    model, state, report, image, reference = load_golden(golden)
    assert len(report.loaded) + len(report.dropped) == len(state)
    with torch.inference_mode():
        assert golden.relative_error(model(image).numpy(), reference) <= 1e-4
        assert golden.relative_error(model.deploy()(image).numpy(), reference) <= 1e-4


def test_only_the_unused_branches_are_dropped(golden):
    _, _, report, _, _ = load_golden(golden)
    used = ("block1.0.", "block2.0.")
    assert all("._depthwise_separable_0." in key and not key.startswith(used) for key in report.dropped)
    assert len(report.dropped) == 10 * (3 + 7)


def test_recognised_and_reversible(golden):
    model, state, report, _, _ = load_golden(golden)
    assert recognise(state).name == LAYOUT
    back = export_layout(model, LAYOUT)
    assert all(torch.equal(back[key], value) for key, value in state.items() if key not in report.dropped)


def test_parameters_are_those_of_the_paper():
    parameters = sum(p.numel() for p in create_model("pphumanseg").parameters())
    assert round(parameters / 1e6, 2) == 0.13


def test_one_logit_can_say_background():
    model = create_model("pphumanseg", num_classes=1).eval()
    assert model(torch.randn(1, 3, 64, 64)).min() < 0
