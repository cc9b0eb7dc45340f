"""ViT and its hybrids against timm, torchvision and transformers, live; the OpenMMLab tables against timm's through ours."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from timm.layers import HybridEmbed
from timm.models.vision_transformer import VisionTransformer as TimmViT
from timm.models.vision_transformer_hybrid import _resnetv2
from torch import Tensor
from torchvision.models import VisionTransformer as TorchvisionViT
from transformers import ViTConfig, ViTForImageClassification, ViTModel

from segmentarium.backbones import create_backbone
from segmentarium.backbones.vit import VisionTransformer
from segmentarium.backbones.vit_hybrid import StandardizedConv2d
from segmentarium.registry import create_model
from segmentarium.weights.layouts import get_layout, recognise
from segmentarium.weights.table import load_state
from tests.parity.comparison import exercised, recognised, relative_error

IMAGE = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
WIDE = torch.randn(1, 3, 48, 128, generator=torch.Generator().manual_seed(1))
SMALL = {"depth": 3, "img_size": 64, "num_classes": 10, "dynamic_img_size": True}


def timm_vit(**arguments: Any) -> Any:
    return exercised(timm.create_model("vit_tiny_patch16_224", **SMALL, **arguments))


@pytest.mark.parametrize(
    ("arguments", "name", "prefix"),
    [
        ({}, "vit/timm", 1),
        ({"reg_tokens": 2, "no_embed_class": True, "init_values": 1e-5}, "vit/timm", 3),
        ({"global_pool": "avg"}, "vit/timm_mean", 1),
        ({"global_pool": "avg", "class_token": False}, "vit/timm_mean", 0),
    ],
    ids=["token", "registers", "mean", "no token"],
)
@torch.inference_mode()
def test_equals_timm(arguments: dict[str, Any], name: str, prefix: int) -> None:
    """Scores, maps and prefix tokens, at the grid that the positions were learned on and at another."""
    theirs = timm_vit(**arguments)
    ours = recognised(theirs.state_dict(), name)
    for image in (IMAGE, WIDE):
        assert relative_error(ours.classify(image), theirs(image)) < 1e-4
        taps = theirs.forward_intermediates(image, indices=[0, 1], intermediates_only=True, return_prefix_tokens=True)
        for (grid, tokens), tap in zip(ours.forward_tokens(image, (0, 1)), taps, strict=True):
            reference = tap if prefix == 0 else tap[0]
            assert relative_error(grid, reference) < 1e-4
            assert tokens.shape == (len(image), prefix, 192)
            assert prefix == 0 or relative_error(tokens, tap[1]) < 1e-4


@torch.inference_mode()
def test_the_last_feature_is_normed_or_as_the_block_gives_it() -> None:
    theirs = timm_vit()
    image = WIDE[..., :41, :97]  # padded with zeros to whole patches
    whole = F.pad(image, (0, 15, 0, 7))
    for final_norm in (True, False):
        ours = recognised(theirs.state_dict(), "vit/timm", final_norm=final_norm, out_indices=(0, 2))
        first, last = ours(image)
        told = theirs.forward_intermediates(whole, indices=[0, 2], intermediates_only=True, norm=final_norm)
        assert relative_error(last, told[1]) < 1e-4
        assert last.shape[-2:] == (3, 7)
        assert final_norm or relative_error(first, told[0]) < 1e-4


@torch.inference_mode()
def test_equals_torchvision() -> None:
    theirs = exercised(
        TorchvisionViT(
            image_size=64, patch_size=16, num_layers=2, num_heads=3, hidden_dim=192, mlp_dim=768, num_classes=10
        )
    )
    state = theirs.state_dict()
    ours = recognised(state, "vit/torchvision")
    assert relative_error(ours.classify(IMAGE), theirs(IMAGE)) < 1e-4
    old = {
        key.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): value for key, value in state.items()
    }
    again = VisionTransformer(embed_dim=192, depth=2, heads=3, image_size=64, num_classes=10)
    load_state(again, old, rules=recognise(old).rules)
    assert all(torch.equal(value, ours.state_dict()[key]) for key, value in again.state_dict().items())


@torch.inference_mode()
def test_equals_transformers_files(tmp_path: Path) -> None:
    config = ViTConfig(
        hidden_size=192, num_hidden_layers=2, num_attention_heads=3, intermediate_size=768, image_size=64, num_labels=10
    )
    theirs = exercised(ViTForImageClassification(config))
    theirs.save_pretrained(tmp_path / "classifier")
    ours = recognised(load_file(tmp_path / "classifier" / "model.safetensors"), "vit/transformers")
    told = theirs(IMAGE, output_hidden_states=True)
    assert relative_error(ours.classify(IMAGE), told.logits) < 1e-4
    ((grid, token),) = ours.forward_tokens(IMAGE, (0,))
    assert relative_error(torch.cat([token, grid.flatten(2).transpose(1, 2)], 1), told.hidden_states[1]) < 1e-4

    bare = exercised(ViTModel(config))
    bare.save_pretrained(tmp_path / "bare")
    ours = recognised(load_file(tmp_path / "bare" / "model.safetensors"), "vit/transformers_bare")
    ((grid, token),) = ours.forward_tokens(IMAGE, (1,))
    whole = torch.cat([token, grid.flatten(2).transpose(1, 2)], 1)
    assert relative_error(whole, bare(IMAGE).last_hidden_state) < 1e-4


def openmmlab(state: dict[str, Tensor], *, mmseg: bool) -> dict[str, Tensor]:
    """A state of timm's under mmpretrain's names, or without its head under mmsegmentation's."""
    names = [("patch_embed.proj.", "patch_embed.projection."), ("blocks.", "layers."), ("mlp.fc1.", "ffn.layers.0.0.")]
    names += [("mlp.fc2.", "ffn.layers.1."), (".norm1.", ".ln1."), (".norm2.", ".ln2.")]
    names += [("attn.qkv.", "attn.attn.in_proj_"), ("attn.proj.", "attn.attn.out_proj.")] if mmseg else []
    found = {}
    for key, value in state.items():
        if key.startswith("head."):
            found |= {} if mmseg else {key.replace("head.", "head.layers.head."): value}
            continue
        for theirs, ours in names:
            key = key.replace(theirs, ours)
        key = "ln1" + key[4:] if key.startswith("norm.") else key
        found[key if mmseg else f"backbone.{key}"] = value
    return found


@torch.inference_mode()
def test_the_openmmlab_tables_give_the_same() -> None:
    theirs = timm_vit()
    state = dict(theirs.state_dict())
    assert (
        relative_error(recognised(openmmlab(state, mmseg=False), "vit/mmpretrain").classify(IMAGE), theirs(IMAGE))
        < 1e-4
    )
    bare = openmmlab(state, mmseg=True)
    assert bare.pop("patch_embed.projection.bias").any()  # as its 1.x makes them
    assert recognised(bare, "vit/mmseg").embedding.proj.bias is None
    ours = recognised(openmmlab(state, mmseg=True), "vit/mmseg", out_indices=(2,))
    (told,) = theirs.forward_intermediates(IMAGE, indices=[2], intermediates_only=True, norm=True)
    assert relative_error(ours(IMAGE)[0], told) < 1e-4
    unnormed = {key: value for key, value in openmmlab(state, mmseg=True).items() if not key.startswith("ln1")}
    ours = recognised(unnormed, "vit/mmseg", out_indices=(2,))
    (told,) = theirs.forward_intermediates(IMAGE, indices=[2], intermediates_only=True)
    assert relative_error(ours(IMAGE)[0], told) < 1e-4


def test_mmpretrain_s_fine_tuned_mae() -> None:
    """The mean of the patches is normed and classified."""
    state = dict(timm_vit().state_dict())
    trunk = {
        key: value
        for key, value in openmmlab(state, mmseg=False).items()
        if not key.startswith(("head", "backbone.ln1"))
    }
    norm = {kind: state[f"norm.{kind}"] for kind in ("weight", "bias")}
    tuned = trunk | {f"backbone.ln2.{kind}": value for kind, value in norm.items()}
    tuned |= {f"head.fc.{kind}": state[f"head.{kind}"] for kind in ("weight", "bias")}
    ours = recognised(tuned, "vit/mmpretrain_mean")
    assert (ours.pool, ours.num_classes) == ("mean", 10)
    assert get_layout("vit/mmpretrain_mean").facts({})["preprocessing"]["std"] == (0.229, 0.224, 0.225)


@pytest.mark.parametrize(
    ("blocks", "patch", "name", "strides"),
    [((1, 2), 1, "vit_hybrid/timm", (4, 8, 8)), ((), 8, "vit_hybrid/timm_stem", (4, 32))],
    ids=["stages", "stem"],
)
@torch.inference_mode()
def test_hybrids_equal_timm(blocks: tuple[int, ...], patch: int, name: str, strides: tuple[int, ...]) -> None:
    embedding = partial(HybridEmbed, backbone=_resnetv2(blocks))
    theirs = exercised(
        TimmViT(
            img_size=64, patch_size=patch, embed_layer=embedding, embed_dim=192, depth=1, num_heads=3, num_classes=10
        )
    )
    ours = recognised(theirs.state_dict(), name, out_indices=None)
    assert relative_error(ours.classify(IMAGE), theirs(IMAGE)) < 1e-4
    every = recognised(theirs.state_dict(), name, out_indices=range(len(strides)), final_norm=False)
    assert every.strides == strides
    *maps, last = every(IMAGE)
    stem = theirs.patch_embed.backbone
    told = stem.forward_intermediates(IMAGE, intermediates_only=True, indices=[1, 2]) if blocks else [stem(IMAGE)]
    for mine, reference in zip(maps, told, strict=True):
        assert relative_error(mine, reference) < 1e-4
    (tap,) = theirs.forward_intermediates(IMAGE, indices=[0], intermediates_only=True)
    assert relative_error(last, tap) < 1e-4


@torch.inference_mode()
def test_deploy_standardises_the_filters_once() -> None:
    model = create_model("vit_base_r50_s16_224", stem_blocks=(1, 1), stem_width=32, embed_dim=32, depth=1, heads=2)
    exercised(model)
    deployed = model.deploy()
    for module in deployed.modules():
        if isinstance(module, StandardizedConv2d):
            assert module.standardized
            assert module.weight.mean((1, 2, 3)).abs().max() < 1e-6
    assert not any(module.standardized for module in model.modules() if isinstance(module, StandardizedConv2d))
    assert relative_error(deployed(WIDE), model(WIDE)) < 1e-4
    assert model.backbone.strides == (4, 8)


def test_impossible_grids_and_pools_are_refused() -> None:
    with pytest.raises(ValueError, match=r"image_size is 230×230; give multiples of the patch's side, 16"):
        VisionTransformer(image_size=230)
    with pytest.raises(ValueError, match=r'give pool="mean" where there is no class token'):
        VisionTransformer(class_token=False)
    with pytest.raises(ValueError, match=r"the blocks to tap are \(1, 0\); give some of 0 to 3, in their order"):
        create_backbone("vit_tiny_patch16_224", depth=4).forward_tokens(IMAGE, (1, 0))


def test_the_table_of_another_square_grid_is_carried_over() -> None:
    vit = VisionTransformer(embed_dim=32, depth=1, heads=2, image_size=(64, 96))
    given = torch.randn(1, 1 + 9, 32)
    carried = vit.carry("positions", given)
    assert carried.shape == vit.positions.shape
    assert torch.allclose(carried, timm.layers.resample_abs_pos_embed(given, [4, 6], [3, 3], num_prefix_tokens=1))
    assert vit.carry("positions", given[:, :8]).shape == (1, 8, 32)
    token = torch.zeros(1, 1, 32)
    assert vit.carry("class_token", token) is token


def test_what_weight_decay_leaves_alone() -> None:
    vit = VisionTransformer(embed_dim=32, depth=1, heads=2, image_size=64, registers=2)
    assert vit.no_weight_decay() == {"class_token", "registers", "positions"}
    assert vit.layer_of("positions") == vit.layer_of("embedding.proj.weight") == 0
