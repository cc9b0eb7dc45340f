"""Swin Transformer live against timm, torchvision and transformers, and against a stored network of mmsegmentation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file
from torch import Tensor

from segmentarium.backbones import create_backbone
from segmentarium.backbones.swin import SwinTransformer
from segmentarium.registry import entry, variant_of
from segmentarium.weights.layouts import get_layout, recognise
from segmentarium.weights.layouts.swin import transformers_rules
from segmentarium.weights.table import Rule, load_state, to_theirs
from tests.parity.comparison import TOLERANCE, golden_state, relative_error, stir

SMALL: dict[str, Any] = {"embed_dim": 32, "depths": (2, 1, 2, 2)}


def carried_over(state: Mapping[str, Tensor], layout_name: str, **arguments: Any) -> SwinTransformer:
    """Our network with these weights, by their layout, which must be recognised and go back to the same tensors."""
    layout = recognise(state)
    assert layout.name == layout_name
    ours: Any = create_backbone(layout.model, **{**layout.arguments(state), **arguments}).eval()
    report = load_state(ours, state, rules=layout.rules)
    back = to_theirs(ours.state_dict(), layout.rules)
    assert back.keys() == state.keys() - set(report.dropped)
    assert all(torch.equal(back[key], state[key]) for key in back)
    return ours


def timm_swin(**arguments: Any) -> Any:
    options = {"img_size": 64, "window_size": 2, "num_heads": (1, 2, 4, 8), "num_classes": 5, **SMALL, **arguments}
    return stir(timm.models.SwinTransformer(**options))


@torch.inference_mode()
def test_equals_timm_and_microsoft_s_keys() -> None:
    theirs = timm_swin(img_size=(64, 128))  # one window is as high as the last map, two as wide
    ours = carried_over(theirs.state_dict(), "swin/timm")
    image = torch.randn(2, 3, 64, 128)
    assert relative_error(ours.classify(image), theirs(image)) <= TOLERANCE
    features = theirs.forward_intermediates(image, norm=False, intermediates_only=True)
    for mine, reference in zip(ours.pyramid(image)[:3], features, strict=False):
        assert relative_error(mine, reference) <= TOLERANCE

    state = to_theirs(ours.state_dict(), get_layout("swin/microsoft").rules)
    assert {"layers.0.downsample.norm.weight", "norm.weight", "head.weight"} <= state.keys()
    buffers = {
        "layers.0.blocks.0.attn.relative_position_index": torch.zeros(4, 4, dtype=torch.int64),
        "layers.0.blocks.1.attn_mask": torch.zeros(256, 4, 4),
    }
    layout = recognise({**state, **buffers})
    assert layout.name == "swin/microsoft"
    again: Any = create_backbone("swin_t", **layout.arguments(state)).eval()
    report = load_state(again, {**state, **buffers}, rules=layout.rules)
    assert set(report.dropped) == buffers.keys()
    assert torch.equal(again.classify(image), ours.classify(image))


@torch.inference_mode()
def test_shifting_all_equals_timm_always_partitioning() -> None:
    theirs = timm_swin(always_partition=True)
    image = torch.randn(1, 3, 64, 64)
    ours = carried_over(theirs.state_dict(), "swin/timm", shift_all=True)
    assert relative_error(ours.classify(image), theirs(image)) <= TOLERANCE
    other = carried_over(theirs.state_dict(), "swin/timm")
    assert relative_error(other.classify(image), theirs(image)) > TOLERANCE


@torch.inference_mode()
def test_equals_torchvision_where_windows_do_not_fit() -> None:
    theirs = stir(
        torchvision.models.SwinTransformer(
            patch_size=[4, 4],
            embed_dim=32,
            depths=[2, 1, 2, 2],
            num_heads=[1, 2, 4, 8],
            window_size=[7, 7],
            num_classes=5,
        )
    )
    ours = carried_over(theirs.state_dict(), "swin/torchvision")
    image = torch.randn(2, 3, 100, 132)  # maps of 25×33, 13×17, 7×9 and 4×5: the last two fit one window, or one high
    assert relative_error(ours.classify(image), theirs(image)) <= TOLERANCE
    assert relative_error(ours.pyramid(image)[2], theirs.features[:6](image).permute(0, 3, 1, 2)) <= TOLERANCE


@torch.inference_mode()
def test_equals_transformers_at_odd_sizes(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.SwinConfig(
        embed_dim=32, depths=[2, 1, 2, 2], num_heads=[1, 2, 4, 8], window_size=3, num_labels=5,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    theirs = stir(transformers.SwinForImageClassification(config))
    theirs.save_pretrained(tmp_path)  # the keys of files, which newer versions rename in memory
    ours = carried_over(load_file(tmp_path / "model.safetensors"), "swin/transformers")
    image = torch.randn(2, 3, 97, 129)
    assert relative_error(ours.classify(image), theirs(image, interpolate_pos_encoding=True).logits) <= TOLERANCE

    dense = stir(transformers.SwinBackbone(config))
    dense.save_pretrained(tmp_path / "dense")
    state = load_file(tmp_path / "dense" / "model.safetensors")
    mine = create_backbone("swin_t", **SMALL, window=3).eval()
    load_state(mine, state, rules=[*transformers_rules("", dense=True), Rule("swin.layernorm.{}", None)])
    for feature, reference in zip(mine(image), dense(image).feature_maps, strict=True):
        assert relative_error(feature, reference) <= TOLERANCE


@torch.inference_mode()
def test_openmmlab_s_trunks_are_recognised(golden: ModuleType) -> None:
    """Of a stored network, which is compared whole where its layout is."""
    state, _, _ = golden_state(golden, "transformer/upernet-swin-t-mmseg")
    trunk = {k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")}
    ours = carried_over(trunk, "swin/mmseg")
    assert (ours.out_indices, ours.norms[0].weight.shape) == ((0, 1, 2, 3), (96,))
    # mmpretrain has the same trunk with its last norm alone, and a classifier
    kept = {f"backbone.{k}": v for k, v in trunk.items() if not k.startswith(("norm0", "norm1", "norm2"))}
    assert recognise(kept).name == "swin/mmpretrain"
    classes = {"head.fc.weight": torch.randn(4, 768), "head.fc.bias": torch.randn(4)}
    assert carried_over({**kept, **classes}, "swin/mmpretrain").num_classes == 4
    # and mmsegmentation's converted ImageNet files call that norm as Microsoft does
    bare = {k: v for k, v in trunk.items() if not k.startswith("norm")}
    bare |= {"norm.weight": trunk["norm3.weight"], "norm.bias": trunk["norm3.bias"]}
    assert recognise(bare).name == "swin/mmseg"
    assert get_layout("swin/mmseg").arguments(bare)["out_indices"] == (3,)


def test_the_sizes_are_told_apart() -> None:
    layout = get_layout("swin/timm")
    for name in ("swin_t", "swin_s", "swin_b", "swin_b_384", "swin_l", "swin_l_384"):
        with torch.device("meta"):
            state = create_backbone(name, num_classes=3).state_dict()
            arguments = layout.arguments(to_theirs(state, layout.rules))
        assert variant_of(entry("swin_t"), arguments)[0].name == name
