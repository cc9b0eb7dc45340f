"""HTC's heads beside mmdetection's, whose stored networks stand on random levels of a pyramid."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from segmentarium.instances.cascade import CascadeDecoder
from segmentarium.instances.htc import HYBRID
from segmentarium.weights.layouts.htc import head_rules
from segmentarium.weights.table import load_state, to_theirs
from tests.parity.comparison import TOLERANCE, example, golden_state, relative_error

SIZE = (128, 192)


@pytest.fixture(scope="module")
def head(golden: ModuleType) -> tuple[CascadeDecoder, list[Tensor], Tensor, dict[str, Any]]:
    """Ours with their weights, the levels, the regions, and what theirs made of them."""
    state, description, arrays = golden_state(golden, "transformer/htc-roi-head")
    decoder = CascadeDecoder(
        channels=(8,) * 4,
        strides=(4, 8, 16, 32),
        num_classes=3,
        width=32,
        hidden=64,
        mask_width=32,
        semantic_classes=7,
        **HYBRID,
    ).eval()
    parts = torch.nn.ModuleDict({name: getattr(decoder, name) for name in ("boxes", "masks", "semantic")})
    rules = head_rules("")
    report = load_state(parts, state, rules=rules)
    assert report.complete
    assert not report.dropped
    assert sum(p.numel() for p in parts.parameters()) == description["parameters"]
    back = to_theirs(parts.state_dict(), rules)
    assert back.keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in back.items())
    maps = [example(golden, description, f"p{i}") for i in range(2, 7)]
    return decoder, maps, torch.from_numpy(arrays["input/rois"]), arrays


@torch.no_grad()
def test_every_stored_output_is_equal(head: tuple[CascadeDecoder, list[Tensor], Tensor, dict[str, Any]]) -> None:
    decoder, maps, rois, arrays = head
    assert decoder.semantic is not None
    scene, semantic = decoder.semantic.forward_train(maps)
    found = {"semantic_feat": scene, "semantic_pred": semantic}
    assert torch.equal(decoder.semantic(maps), scene)
    for stage in range(3):
        scores, deltas = decoder.boxes[stage](decoder.of_boxes(maps, scene, rois))
        found |= {f"bbox/{stage}/cls_score": scores, f"bbox/{stage}/bbox_pred": deltas}
        features = decoder.mask_features(decoder.of_masks(maps, scene, rois), stage)
        found[f"mask_train/{stage}"] = decoder.masks[stage].masks(features)  # pyright: ignore[reportCallIssue]
    found["refined"] = decoder.refined(0, rois, found["bbox/0/cls_score"], found["bbox/0/bbox_pred"], SIZE)[:, 1:]
    found["mask_test"] = found["mask_train/2"]
    stored = {name.removeprefix("out/"): torch.from_numpy(value) for name, value in arrays.items() if "out/" in name}
    assert stored.keys() == found.keys()
    for name, theirs in stored.items():
        assert relative_error(found[name], theirs) <= TOLERANCE, name


@torch.no_grad()
def test_masks_of_the_stages_are_averaged_or_the_last_is_taken(
    head: tuple[CascadeDecoder, list[Tensor], Tensor, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The paper's ensemble is the mean of probabilities; mmdetection 3 gives the last stage's."""
    decoder, maps, rois, arrays = head
    assert decoder.semantic is not None
    scene, labels = decoder.semantic(maps), torch.tensor([0, 2, 1, 0])
    stages = [torch.from_numpy(arrays[f"out/mask_train/{stage}"]).sigmoid() for stage in range(3)]
    picked = torch.stack([masks[torch.arange(4), labels] for masks in stages])
    assert relative_error(decoder.masked(maps, scene, rois, labels), picked.mean(0)) <= TOLERANCE
    monkeypatch.setattr(decoder, "ensemble", "last")
    assert relative_error(decoder.masked(maps, scene, rois, labels), picked[-1]) <= TOLERANCE
