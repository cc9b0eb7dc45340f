"""BiSeNet and Xception-39 against the outputs of both public implementations."""

from __future__ import annotations

import pytest
import torch

from segmentarium.layers.resize import resize
from segmentarium.registry import create_model
from segmentarium.weights import export_layout
from segmentarium.weights.layouts import get_layout, recognise
from segmentarium.weights.table import load_state
from tests.parity.comparison import example, golden_state

LAYOUTS = {
    "bisenetv1-r18-coincheung": "bisenet/coincheung",
    "bisenetv1-r18-torchseg": "bisenet/torchseg",
    "bisenetv1-r18speed-torchseg": "bisenet/torchseg",
    "bisenetv1-x39-torchseg": "bisenet/torchseg",
}


def load_golden(golden, name):
    state, description, arrays = golden_state(golden, f"realtime/{name}")
    layout = get_layout(LAYOUTS[name])
    model = create_model(layout.model, **layout.arguments(state)).eval()
    report = load_state(model, state, rules=layout.rules, strict=True)
    assert report.complete
    assert len(report.loaded) == len(state)
    image = example(golden, description, "x")
    with torch.inference_mode():
        outputs = model.forward_train(image) | {"full": model(image)}
    return model, state, outputs, arrays


def assert_equal(golden, output, reference):
    assert golden.relative_error(output.numpy(), reference) <= 1e-4


def test_coincheung(golden):
    _, _, outputs, arrays = load_golden(golden, "bisenetv1-r18-coincheung")
    assert_equal(golden, outputs["full"], arrays["out/0"])
    for index, name in ((1, "aux_8"), (2, "aux_16")):
        assert_equal(golden, resize(outputs[name], outputs["full"].shape[-2:]), arrays[f"out/{index}"])


@pytest.mark.parametrize("name", [name for name, layout in LAYOUTS.items() if layout == "bisenet/torchseg"])
def test_torchseg(golden, name):
    _, _, outputs, arrays = load_golden(golden, name)
    # the speed variant stays at 1/8
    main = outputs["logits"] if "speed" in name else outputs["full"]
    assert_equal(golden, main.log_softmax(1), arrays["out/returned"])
    for index, output in enumerate(("aux_16", "aux_8")):
        resized = resize(outputs[output], main.shape[-2:], align_corners=True)
        assert_equal(golden, resized, arrays[f"out/aux{index}"])


@pytest.mark.parametrize("name", LAYOUTS)
def test_recognised_and_reversible(golden, name):
    model, state, *_ = load_golden(golden, name)
    assert recognise(state).name == LAYOUTS[name]
    back = export_layout(model, LAYOUTS[name])
    assert back.keys() == state.keys() | {key for key in back if key.endswith("num_batches_tracked")}
    assert all(torch.equal(back[key], value) for key, value in state.items())


def test_xception39_alone(golden):
    model, state, *_ = load_golden(golden, "bisenetv1-x39-torchseg")
    prefix = "context_path."
    alone = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    assert recognise(alone).name == "xception39/torchseg"
    backbone = create_model("xception39").eval()
    assert load_state(backbone, alone, rules=get_layout("xception39/torchseg").rules, strict=True).complete
    image = torch.randn(1, 3, 65, 97)
    with torch.inference_mode():
        pairs = zip(backbone(image), model.backbone(image), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


def test_without_auxiliary_heads(golden):
    _, state, outputs, _ = load_golden(golden, "bisenetv1-x39-torchseg")
    bare = {key: value for key, value in state.items() if not key.startswith(("heads.0", "heads.1"))}
    layout = recognise(bare)
    model = create_model(layout.model, **layout.arguments(bare)).eval()
    load_state(model, bare, rules=layout.rules, strict=True)
    assert [term.name for term in model.objective] == ["logits"]
    image = torch.from_numpy(golden.example_input("x", (1, 3, 64, 96)))
    with torch.inference_mode():
        assert torch.equal(model(image), outputs["full"])
