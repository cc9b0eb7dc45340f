"""Non-local heads, plain and disentangled, against mmsegmentation's recorded ones and timm's block; layouts by their keys."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from timm.layers import NonLocalAttn  # type: ignore[attr-defined]

from segmentarium.semantic.dnlnet import DNLDecoder
from segmentarium.semantic.non_local import NonLocal, NonLocalDecoder
from segmentarium.weights.layouts.non_local import mmseg_head
from segmentarium.weights.table import load_state, to_theirs
from tests.parity.comparison import TOLERANCE, as_theirs, example, exercised, golden_state, relative_error

SHAPE: dict[str, Any] = {"channels": (32,), "strides": (8,), "num_classes": 5, "decoder_channels": 16}
GOLDENS = {
    "semantic/nonlocal-gaussian": "gaussian",
    "semantic/nonlocal-embedded-gaussian": "embedded_gaussian",
    "semantic/nonlocal-dot-product": "dot_product",
    "semantic/nonlocal-concatenation": "concatenation",
    "semantic/dnlnet-head": "",
}


@torch.inference_mode()
@pytest.mark.parametrize("name", GOLDENS)
def test_head_equals_mmsegmentation(golden: ModuleType, name: str) -> None:
    state, description, outputs = golden_state(golden, name)
    form = GOLDENS[name]
    head: Any = NonLocalDecoder(**SHAPE, form=form) if form else DNLDecoder(**SHAPE)
    rules = mmseg_head("nl_block" if form else "dnl_block", "", "")
    assert load_state(head.eval(), state, rules=rules).complete
    assert sum(p.numel() for p in head.parameters()) == description["parameters"]
    back = to_theirs(head.state_dict(), rules)
    assert all(torch.equal(back[key], value) for key, value in state.items())
    feature = example(golden, description, "c4")
    expected = torch.from_numpy(outputs["out"])
    assert relative_error(head([feature]), expected) <= TOLERANCE
    head.convs[1].reparameterize()
    assert relative_error(head([feature]), expected) <= TOLERANCE


@torch.inference_mode()
@pytest.mark.parametrize("scaled", [True, False])
def test_block_equals_timm_s(scaled: bool) -> None:
    """timm divides by the root of all channels instead of those inside: with that number put in, all is equal."""
    theirs: Any = exercised(NonLocalAttn(32, use_scale=scaled, rd_ratio=1 / 4))
    ours: Any = NonLocal(32, reduction=4, scaled=scaled).eval()
    assert (ours.scale == theirs.scale) == (not scaled)
    ours.scale = theirs.scale
    for mine, layer in ((ours.query, theirs.t), (ours.key, theirs.p), (ours.value, theirs.g)):
        mine.load_state_dict(
            {key: value.flatten(1) if value.ndim > 1 else value for key, value in layer.state_dict().items()}
        )
    ours.project.conv.weight.copy_(theirs.z.weight)
    ours.project.norm.load_state_dict(theirs.norm.state_dict())
    ours.project.norm.running_mean -= theirs.z.bias  # which the norm takes out again
    x = torch.randn(2, 32, 9, 12)
    assert relative_error(ours(x), theirs(x)) < 1e-5


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("nonlocal", {"num_classes": 19}),
        ("nonlocal", {"num_classes": 150, "backbone": "resnet101_v1c", "auxiliary": False}),
        ("nonlocal", {"num_classes": 21, "form": "gaussian", "reduction": 4}),
        ("nonlocal", {"num_classes": 21, "form": "concatenation"}),
        ("dnlnet", {"num_classes": 19}),
        ("dnlnet", {"num_classes": 19, "backbone": "resnest50", "backbone_arguments": {"form": "mmseg"}}),
    ],
)
def test_keys_are_recognised_and_read_back(name: str, arguments: dict[str, Any]) -> None:
    layout = f"{name}/mmseg" + ("_resnest" if arguments.get("backbone") == "resnest50" else "")
    as_theirs(layout, name, **arguments)
