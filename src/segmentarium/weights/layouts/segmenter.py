"""Segmenter as its authors' code and mmsegmentation store it.

The authors' programs write `variant.yml` beside a checkpoint; where it lies there, heads, the shape of the table of positions and
the normalisation are read from it.  Without it, a distillation token tells DeiT, whose pictures are normalised as ImageNet's.
mmsegmentation's linear decoder is its FCN head without convolutions, read off its public code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor

from segmentarium.preprocessing import Preprocessing
from segmentarium.weights.layouts.parts import rest
from segmentarium.weights.layouts.vit import (
    MMPRETRAIN_BLOCK,
    OPENMMLAB_KEYS,
    TIMM_BLOCK,
    TIMM_KEYS,
    block_rules,
    mmseg_rules,
    sized,
    timm_rules,
    vit_arguments,
)
from segmentarium.weights.table import Golden, Layout, Rule

AUTHORS_KEYS: dict[str, Any] = {name: f"encoder.{key}" for name, key in TIMM_KEYS.items()}
MMSEG_KEYS: dict[str, Any] = {name: f"backbone.{key}" for name, key in OPENMMLAB_KEYS.items()}
AUTHORS_BACKBONE = (
    *timm_rules("encoder.", "backbone."),
    Rule("encoder.dist_token", "backbone.distillation_token"),
    rest("encoder.norm", "backbone.norm"),
    Rule("encoder.head.{*}", None),  # ImageNet's
    Rule("encoder.head_dist.{*}", None),
)
AUTHORS_MASKS = (
    Rule("decoder.cls_emb", "decoder.class_embeddings"),
    rest("decoder.proj_dec", "decoder.project"),
    *block_rules("decoder.blocks.{}", "decoder.blocks.{}", TIMM_BLOCK),
    rest("decoder.decoder_norm", "decoder.norm"),
    Rule("decoder.proj_patch", "decoder.project_patches.weight", transposed=True),
    Rule("decoder.proj_classes", "decoder.project_classes.weight", transposed=True),
    rest("decoder.mask_norm", "decoder.mask_norm"),
)
MMSEG_BLOCK = {mine: name for mine, name in MMPRETRAIN_BLOCK.items() if mine != "attention.qkv"}
MMSEG_MASKS = (
    Rule("decode_head.cls_emb", "decoder.class_embeddings"),
    rest("decode_head.dec_proj", "decoder.project"),
    *(
        Rule(f"decode_head.layers.{{}}.attn.attn.in_proj_{kind}", f"decoder.blocks.{{}}.attention.qkv.{kind}")
        for kind in ("weight", "bias")
    ),
    *block_rules("decode_head.layers.{}", "decoder.blocks.{}", MMSEG_BLOCK | {"attention.proj": "attn.attn.out_proj"}),
    rest("decode_head.decoder_norm", "decoder.norm"),
    rest("decode_head.patch_proj", "decoder.project_patches"),
    rest("decode_head.classes_proj", "decoder.project_classes"),
    rest("decode_head.mask_norm", "decoder.mask_norm"),
)
MMSEG_LINEAR = (
    Rule("decode_head.conv_seg.weight", "decoder.classifier.weight", theirs_ndim=4),
    Rule("decode_head.conv_seg.bias", "decoder.classifier.bias"),
)


def _masks(state: Mapping[str, Tensor], embeddings: str, block: str) -> dict[str, Any]:
    _, labels, width = state[embeddings].shape
    depth = 0
    while block.format(depth) in state:
        depth += 1
    return {"num_classes": labels, "decoder_channels": width, "depth": depth}


def _authors(state: Mapping[str, Tensor], *, linear: bool) -> dict[str, Any]:
    distilled = "encoder.dist_token" in state
    own = vit_arguments(state, **AUTHORS_KEYS, more=int(distilled))
    eight = own["patch"] == 8
    ways: dict[str, Any] = {
        "image_size": own["image_size"],
        "norm_eps": 1e-5,
        "interpolation": "bilinear",
        "antialias": False,
        "drop_path": 0.1,
    }
    if distilled:
        ways["distilled"] = True
    found = sized(own, 8 if eight else 16, 224 if eight else 384, **ways)
    if linear:
        return found | {"num_classes": state["decoder.head.weight"].shape[0]}
    return found | _masks(state, "decoder.cls_emb", "decoder.blocks.{}.norm1.weight")


def _mmseg(state: Mapping[str, Tensor], *, linear: bool) -> dict[str, Any]:
    ways = {"norm_eps": 1e-6, "interpolation": "bicubic", "antialias": False, "drop_path": 0.1}
    found = sized(vit_arguments(state, **MMSEG_KEYS), 16, 384, **ways)
    if linear:
        return found | {"num_classes": state["decode_head.conv_seg.weight"].shape[0]}
    return found | _masks(state, "decode_head.cls_emb", "decode_head.layers.{}.ln1.weight")


def _facts(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return _normalised("deit" if "encoder.dist_token" in state else "vit")


def _normalised(how: str) -> dict[str, Any]:
    half = (0.5, 0.5, 0.5)
    return {"preprocessing": {"deit": Preprocessing(), "vit": Preprocessing(half, half)}[how].as_dict()}


def _variant(said: Any, arguments: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What variant.yml says -> (arguments, facts)."""
    net = said["net_kwargs"]
    height, width = (int(side) for side in net["image_size"])
    ways = {**arguments["backbone_arguments"], "image_size": height if height == width else (height, width)}
    if "heads" in ways:  # of no published size
        ways["heads"] = int(net["n_heads"])
    facts = _normalised(str(net["normalization"])) | {"dataset": str(said["dataset_kwargs"]["dataset"])}
    windows = said.get("inference_kwargs")
    if windows:
        facts["notes"] = f"windows of {int(windows['window_size'])} every {int(windows['window_stride'])} pixels"
    return {**arguments, "backbone_arguments": ways}, facts


def _layout(
    name: str,
    model: str,
    rules: tuple[Rule, ...],
    arguments: Callable[..., dict[str, Any]],
    goldens: Mapping[str, Golden] | None = None,
) -> Layout:
    if name.endswith("authors"):
        source, more = "https://github.com/rstrudel/segmenter", {"beside": "variant.yml", "told": _variant}
        return Layout(name, model, (*AUTHORS_BACKBONE, *rules), arguments, source, _facts, goldens or {}, **more)
    source = "https://github.com/open-mmlab/mmsegmentation"
    return Layout(
        name, model, (*mmseg_rules("backbone.", "backbone."), *rules), arguments, source, goldens=goldens or {}
    )


UNUSED = ("encoder.head.*",)
LAYOUTS = (
    _layout(
        "segmenter/authors",
        "segmenter_base",
        AUTHORS_MASKS,
        partial(_authors, linear=False),
        {"transformer/segmenter-tiny-mask": Golden({"out": "forward"}, dropped=UNUSED)},
    ),
    _layout(
        "segmenter_linear/authors",
        "segmenter_base8_linear",
        (rest("decoder.head", "decoder.classifier"),),
        partial(_authors, linear=True),
        {"transformer/segmenter-tiny-linear": Golden({"out": "forward"}, dropped=UNUSED)},
    ),
    _layout(
        "segmenter/mmseg",
        "segmenter_base",
        MMSEG_MASKS,
        partial(_mmseg, linear=False),
        {"transformer/segmenter-mask-mmseg": Golden({"out/low": "logits"})},
    ),
    _layout("segmenter_linear/mmseg", "segmenter_small_linear", MMSEG_LINEAR, partial(_mmseg, linear=True)),
)
