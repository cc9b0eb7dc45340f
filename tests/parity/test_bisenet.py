"""BiSeNet without its heads, and Xception-39 alone.  Its stored outputs: test_layouts.py."""

from __future__ import annotations

import torch

from segmentarium.backbones import create_backbone
from segmentarium.registry import create_model
from segmentarium.weights.layouts import get_layout, recognise
from segmentarium.weights.table import load_state
from tests.parity.comparison import loaded


def test_xception39_alone(golden):
    whole = loaded(golden, "bisenet/torchseg", "realtime/bisenetv1-x39-torchseg")
    model, state = whole.model, whole.state
    prefix = "context_path."
    alone = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    assert recognise(alone).name == "xception39/torchseg"
    backbone = create_backbone("xception39").eval()
    assert load_state(backbone, alone, rules=get_layout("xception39/torchseg").rules, strict=True).complete
    image = torch.randn(1, 3, 65, 97)
    with torch.inference_mode():
        pairs = zip(backbone(image), model.backbone(image), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


def test_without_auxiliary_heads(golden):
    whole = loaded(golden, "bisenet/torchseg", "realtime/bisenetv1-x39-torchseg")
    bare = {key: value for key, value in whole.state.items() if not key.startswith(("heads.0", "heads.1"))}
    layout = recognise(bare)
    model = create_model(layout.model, **layout.arguments(bare)).eval()
    load_state(model, bare, rules=layout.rules, strict=True)
    assert [term.name for term in model.objective] == ["logits"]
    with torch.inference_mode():
        assert torch.equal(model(whole.image), whole.outputs["forward"])
