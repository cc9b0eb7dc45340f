"""CAC against its authors' recorded head and losses; whole networks by their keys."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from segmentarium.layers.resize import resize
from segmentarium.losses import CrossEntropy, EntropyDistillation
from segmentarium.meta import on_meta
from segmentarium.semantic.cac import context_aware
from segmentarium.semantic.fcn import FCNDecoder
from segmentarium.weights.layouts.cac import context_rules
from segmentarium.weights.layouts.parts import mmseg_fcn_head
from segmentarium.weights.table import load_state, to_theirs
from tests.parity.comparison import TOLERANCE, as_theirs, example, golden_state, relative_error


def corners(labels: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """Labels at that size as the authors take them: of the corner of each cell."""
    return F.interpolate(labels[:, None].float(), size, mode="nearest")[:, 0].long()


def test_head_and_losses(golden: ModuleType) -> None:
    state, description, arrays = golden_state(golden, "semantic/cac-fcn-head")
    told = {"decoder_channels": 16, "convs": 1, "concatenate": True}
    head: Any = context_aware(FCNDecoder)(channels=(24,), strides=(8,), num_classes=5, **told).eval()
    rules = [*context_rules("", ""), *mmseg_fcn_head("", "base.")]
    assert load_state(head, state, rules=rules).complete
    back = to_theirs(head.state_dict(), rules)
    assert all(torch.equal(back[key], value) for key, value in state.items())
    assert sum(p.numel() for p in head.parameters()) == description["parameters"]

    features = [example(golden, description, "c4")]
    target = torch.from_numpy(arrays["target/label"])
    outputs = head.forward_train(features)
    labels = corners(target, outputs["feature"].shape[-2:])
    outputs = {name: x.detach() for name, x in outputs.items()}
    oracle = head.oracle_scores(outputs["feature"], labels).detach()
    for name, ours in (("refined", outputs["logits"]), ("plain", outputs["plain"]), ("oracle", oracle)):
        assert relative_error(ours, torch.from_numpy(arrays[f"out/{name}"])) <= TOLERANCE, name
    assert torch.equal(head(features), outputs["logits"])

    size = target.shape[-2:]
    aligned = [CrossEntropy()(resize(x, size, align_corners=True), target) for x in (outputs["plain"], oracle)]
    main = CrossEntropy(average="all")(resize(outputs["logits"], size), target)
    losses = torch.stack([main, *aligned, EntropyDistillation()(outputs["logits"], oracle, labels)])
    theirs = torch.from_numpy(arrays["out/losses"])
    assert relative_error(torch.cat([losses, losses.sum()[None]]), theirs) <= TOLERANCE
    assert ((losses - theirs[:4]).abs() <= TOLERANCE * theirs[:4]).all()


def test_distillation_and_its_gradient(golden: ModuleType) -> None:
    description, arrays = golden.load("semantic/cac-kl-loss")
    student, teacher = (example(golden, description, name) for name in ("pred", "soft"))
    student.requires_grad_()
    labels = corners(torch.from_numpy(arrays["target/label"]), student.shape[-2:])
    assert (labels == 255).any()
    loss = EntropyDistillation()(3 * student, 3 * teacher, labels)
    assert float(loss.detach()) == pytest.approx(float(arrays["out/loss"]), rel=TOLERANCE)
    (slope,) = torch.autograd.grad(loss, student)
    assert relative_error(100 * slope, torch.from_numpy(arrays["out/grad"])) <= TOLERANCE


def test_published_parameters() -> None:
    with on_meta():
        told = {"decoder_channels": 512, "convs": 2, "concatenate": True}
        head = context_aware(FCNDecoder)(channels=(2048,), strides=(8,), num_classes=19, **told)
    assert round(sum(p.numel() for p in head.parameters()) / 1e6, 4) == 24.3932  # as counted in the authors' code


@pytest.mark.parametrize(
    ("layout", "model", "arguments"),
    [
        ("cac/fcn", "cac_fcn_mobilenet_v2", {"backbone": "resnet50_v1c"}),
        ("cac/fcn_mobilenet_v2", "cac_fcn_mobilenet_v2", {}),
        ("cac/deeplabv3plus", "cac_deeplabv3plus_resnet50", {}),
        ("cac/ocrnet_hrnet", "cac_ocrnet_hr18", {}),
        ("cac/upernet_swin", "cac_upernet_swin_tiny", {}),
        ("cac/upernet_swin", "cac_upernet_swin_base_384", {}),
        ("cac/upernet_swin", "cac_upernet_swin_large_384", {}),
    ],
)
def test_whole_networks_are_recognised(layout: str, model: str, arguments: dict) -> None:
    as_theirs(layout, model, **arguments)
