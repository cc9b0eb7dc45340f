"""Mask2Former: deformable attention, loss and matching of the authors; whole networks live against transformers; the keys."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from segmentarium import create_model, load
from segmentarium.layers import deformable_attention
from segmentarium.layers.deformable_attention import DeformableAttention, at_levels
from segmentarium.losses import PointSetLoss
from segmentarium.meta import on_meta
from segmentarium.registry import entry
from segmentarium.weights.layouts import get_layout
from segmentarium.weights.layouts.mask2former import _deformable
from segmentarium.weights.table import load_state, to_theirs
from tests.parity.comparison import (
    TOLERANCE,
    as_theirs,
    check_earlier_keys,
    example,
    exercised,
    golden_state,
    relative_error,
)
from tests.parity.test_maskformer import (
    assert_equals_transformers,
    assert_losses,
    assert_matching,
    carried_over,
    loss_golden,
    saved,
)

SIZES = [(3, 4), (5, 8), (10, 15)]


@pytest.mark.parametrize("form", ["read_bags", "read_grids"])
@torch.inference_mode()
def test_deformable_attention_is_the_authors(golden: ModuleType, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    state, description, arrays = golden_state(golden, "transformer/ms-deform-attn")
    layer = DeformableAttention(32, 4).eval()
    rules = _deformable("x", "y")
    load_state(torch.nn.ModuleDict({"y": layer}), {f"x.{key}": value for key, value in state.items()}, rules=rules)
    monkeypatch.setattr(deformable_attention, "read_bags", getattr(deformable_attention, form))
    query, reference, value = (example(golden, description, name) for name in ("query", "reference", "value"))
    places = at_levels(reference.sigmoid(), SIZES)
    assert relative_error(layer(query, places, value, SIZES), torch.from_numpy(arrays["out/plain"])) <= TOLERANCE
    # where a token is padding, what is projected of it is nothing

    def padded(_module: object, _given: object, projected: Tensor) -> Tensor:
        return torch.cat([projected[:, :-7], torch.zeros_like(projected[:, -7:])], 1)

    layer.value.register_forward_hook(padded)
    assert relative_error(layer(query, places, value, SIZES), torch.from_numpy(arrays["out/padded"])) <= TOLERANCE


def drawn(arrays: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The stored numbers in place of the next that are drawn."""
    numbers = iter(range(sum(name.startswith("random/") for name in arrays)))

    def rand(*shape: int, device: object = None) -> Tensor:
        found = torch.from_numpy(arrays[f"random/{next(numbers)}"])
        assert found.shape == shape
        return found

    monkeypatch.setattr(torch, "rand", rand)


def test_the_loss_is_the_authors(golden: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs, labels, arrays = loss_golden(golden, "transformer/mask2former-loss")
    with on_meta():  # for its objective alone
        model = create_model("mask2former_resnet50", num_classes=6, layers=2, drawn=40, ignored="background")
    drawn(arrays, monkeypatch)
    weights = {"class": 2.0, "mask": 5.0, "dice": 5.0}
    assert_losses(model.criterion(outputs, {"mask": labels}), weights, arrays)
    drawn(arrays, monkeypatch)
    loss = PointSetLoss(weights, points=40, ignored="background")
    assert_matching(loss, outputs, labels, [arrays["match/0/0"], arrays["match/0/1"]])


def test_equals_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    backbone = transformers.SwinConfig(
        embed_dim=32, depths=[2, 1, 2, 1], num_heads=[1, 2, 4, 8], window_size=3,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = transformers.Mask2FormerConfig(
        feature_size=64, mask_feature_size=32, hidden_dim=64, encoder_feedforward_dim=48, encoder_layers=2,
        decoder_layers=5, num_attention_heads=4, dim_feedforward=40, num_queries=7, backbone_config=backbone,
        num_labels=4, use_auxiliary_loss=True, output_auxiliary_logits=True,
    )  # fmt: skip
    theirs = exercised(transformers.Mask2FormerForUniversalSegmentation(config))
    ours = carried_over(saved(theirs, tmp_path), "mask2former/transformers")
    assert_equals_transformers(ours, theirs, torch.randn(2, 3, 96, 64))
    assert_equals_transformers(ours, theirs, torch.randn(1, 3, 97, 129))


@pytest.mark.parametrize(
    ("layout", "model", "arguments"),
    [
        ("mask2former/authors", "mask2former_swin_large", {"num_classes": 133, "things": 80, "queries": 200}),
        ("mask2former/authors", "mask2former_resnet101", {"num_classes": 80}),
        ("mask2former/transformers", "mask2former_swin_tiny", {}),
        ("mask2former/transformers", "mask2former_swin_base", {"num_classes": 19}),
        ("mask2former/mmdet", "mask2former_swin_small", {"num_classes": 133, "things": 80}),
        ("mask2former/mmdet", "mask2former_resnet50", {"num_classes": 80}),
        ("mask2former/mmseg", "mask2former_resnet101", {}),
        ("mask2former/mmseg", "mask2former_swin_base", {}),
    ],
)
def test_published_sizes_are_recognised(layout: str, model: str, arguments: dict[str, Any]) -> None:
    as_theirs(layout, model, {}, **arguments)


def test_files_of_earlier_versions_are_read() -> None:
    changes = {
        "mask2former/authors": {"sem_seg_head.pixel_decoder.": "sem_seg_head.", "query_feat": "static_query"},
        "mask2former/mmseg": {
            **{f"decoder.encoder.layers.{i}.self_attn.": f"decoder.encoder.layers.{i}.attentions.0." for i in range(6)},
            ".cross_attn.attn.": ".attentions.0.attn.",
            ".self_attn.attn.": ".attentions.1.attn.",
            ".ffn.layers.": ".ffns.0.layers.",
        },
    }
    for name, replaced in changes.items():
        check_earlier_keys(name, replaced)


@torch.inference_mode()
def test_a_file_of_the_authors_zoo_is_loaded(tmp_path: Path) -> None:
    """A pickle of NumPy arrays with their earliest keys."""
    small = {"backbone": "resnet18", "backbone_arguments": {"width": 16}}
    arguments = {**entry("mask2former_resnet50").tiny_arguments(), **small, "drawn": 12544}
    model = create_model("mask2former_resnet50", num_classes=3, **arguments).eval()
    state = to_theirs(model.state_dict(), get_layout("mask2former/authors").rules)
    arrays = {
        key.replace("pixel_decoder.", "").replace("query_feat", "static_query"): value.numpy()
        for key, value in state.items()
        if not key.endswith("num_batches_tracked")  # their norms are constants
    }
    path = tmp_path / "model_final_a1b2c3.pkl"
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "zoo", "matching_heuristics": True}, protocol=4))
    again = load(path)
    assert (again.backbone.stem[0].conv.out_channels, len(again.decoder.layers)) == (16, 3)
    assert again.weights_header["licences"] == {"weights": "CC-BY-NC-4.0"}
    image = torch.randn(1, 3, 64, 96)
    assert torch.equal(again(image), model(image))
