"""ViT and its hybrids as timm, torchvision, transformers, mmpretrain and mmsegmentation store them.

mmpretrain's and mmsegmentation's tables were read off their public code.  The count of heads is in no shape: it is known for the
published widths, and one for each 64 channels else.  DeiT's files have timm's keys (without distillation); nothing in them, or in
MAE's encoders alone, says that they want ImageNet's mean and standard deviation where the others want 0.5.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor

from segmentarium.preprocessing import Preprocessing
from segmentarium.weights.layouts.parts import rest
from segmentarium.weights.table import Layout, Rule, outputs_of

HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}


def block_rules(theirs: str, ours: str, names: Mapping[str, str]) -> list[Rule]:
    """The table of a `TransformerBlock`.  names: ours ("norm1", "attention.qkv", "mlp.fc1", …) -> theirs"""
    return [rest(f"{theirs}.{name}", f"{ours}.{mine}") for mine, name in names.items()]


TIMM_BLOCK = {
    "norm1": "norm1",
    "attention": "attn",
    "norm2": "norm2",
    "mlp": "mlp",
    "scale1": "ls1",
    "scale2": "ls2",
}
MMPRETRAIN_BLOCK = {
    "norm1": "ln1",
    "attention.qkv": "attn.qkv",
    "attention.proj": "attn.proj",
    "norm2": "ln2",
    "mlp.fc1": "ffn.layers.0.0",
    "mlp.fc2": "ffn.layers.1",
}


def sized(own: Mapping[str, Any], patch: int, image_size: int, /, **more: Any) -> dict[str, Any]:
    """What `vit_arguments` gives, as arguments of a network that stands on it: a registered name, and what it has otherwise.

    patch, image_size   of the registered ViTs to choose among
    """
    from segmentarium.backbones.vit import SIZES

    size = (own["embed_dim"], own["depth"], own["heads"])
    known = {sizes: name for name, sizes in SIZES.items()}
    backbone = f"vit_{known.get(size, 'base')}_patch{patch}_{image_size}"
    kept = {name: own[name] for name in ("embed_dim", "depth", "heads")} if size not in known else {}
    kept |= {name: own[name] for name in ("patch_bias",) if name in own}
    kept |= {name: own[name] for name, usual in (("patch", patch), ("image_size", image_size)) if own[name] != usual}
    return {"backbone": backbone, "backbone_arguments": {**kept, **more}, "in_channels": own["in_channels"]}


def timm_rules(theirs: str = "", ours: str = "") -> list[Rule]:
    """The table without final norm and classifier, prefixes ending in a dot."""
    return [
        Rule(f"{theirs}cls_token", f"{ours}class_token"),
        Rule(f"{theirs}reg_token", f"{ours}registers"),
        Rule(f"{theirs}pos_embed", f"{ours}positions"),
        rest(f"{theirs}patch_embed.proj", f"{ours}embedding.proj"),
        *block_rules(f"{theirs}blocks.{{}}", f"{ours}blocks.{{}}", TIMM_BLOCK),
    ]


def openmmlab_rules(theirs: str, ours: str, block: Mapping[str, str]) -> list[Rule]:
    """The table without the final norm, prefixes ending in a dot; block: as `block_rules` takes it"""
    return [
        Rule(f"{theirs}cls_token", f"{ours}class_token"),
        Rule(f"{theirs}pos_embed", f"{ours}positions"),
        rest(f"{theirs}patch_embed.projection", f"{ours}embedding.proj"),
        *block_rules(f"{theirs}layers.{{}}", f"{ours}blocks.{{}}", block),
    ]


def mmseg_rules(theirs: str = "", ours: str = "") -> list[Rule]:
    """mmsegmentation's table with the final norm, prefixes ending in a dot ("backbone." within its networks); its attention is
    PyTorch's, within mmcv's."""
    block = {mine: name for mine, name in MMPRETRAIN_BLOCK.items() if mine != "attention.qkv"}
    return [
        *(
            Rule(f"{theirs}layers.{{}}.attn.attn.in_proj_{kind}", f"{ours}blocks.{{}}.attention.qkv.{kind}")
            for kind in ("weight", "bias")
        ),
        *openmmlab_rules(theirs, ours, block | {"attention.proj": "attn.attn.out_proj"}),
        rest(f"{theirs}ln1", f"{ours}norm"),
    ]


def torchvision_rules() -> list[Rule]:
    layer, block = "encoder.layers.encoder_layer_", "blocks."
    rules = [
        Rule("class_token", "class_token"),
        Rule("encoder.pos_embedding", "positions"),
        rest("conv_proj", "embedding.proj"),
        rest("encoder.ln", "norm"),
        rest("heads.head", "classifier"),
    ]
    for kind in ("weight", "bias"):
        rules += [
            Rule(f"{layer}{{}}.self_attention.in_proj_{kind}", f"{block}{{}}.attention.qkv.{kind}"),
            Rule(f"{layer}{{}}.mlp.0.{kind}", f"{block}{{}}.mlp.fc1.{kind}"),
            Rule(f"{layer}{{}}.mlp.3.{kind}", f"{block}{{}}.mlp.fc2.{kind}"),
            # the published files are older than the module and have its first names
            Rule(f"{layer}{{}}.mlp.linear_1.{kind}", f"{block}{{}}.mlp.fc1.{kind}"),
            Rule(f"{layer}{{}}.mlp.linear_2.{kind}", f"{block}{{}}.mlp.fc2.{kind}"),
        ]
    names = {"ln_1": "norm1", "self_attention.out_proj": "attention.proj", "ln_2": "norm2"}
    return [*rules, *(rest(f"{layer}{{}}.{theirs}", f"{block}{{}}.{ours}") for theirs, ours in names.items())]


def transformers_block(theirs: str, ours: str) -> list[Rule]:
    """The table of a block, of files; models in memory have other names since version 5."""
    stack = tuple(f"{theirs}.attention.attention.{name}.{{*}}" for name in ("query", "key", "value"))
    names = {
        "norm1": "layernorm_before",
        "attention.proj": "attention.output.dense",
        "norm2": "layernorm_after",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }
    return [Rule(stack, f"{ours}.attention.qkv.{{*}}"), *block_rules(theirs, ours, names)]


def transformers_rules(theirs: str = "vit.", ours: str = "") -> list[Rule]:
    """The table with the final norm, prefixes ending in a dot."""
    return [
        Rule(f"{theirs}embeddings.cls_token", f"{ours}class_token"),
        Rule(f"{theirs}embeddings.position_embeddings", f"{ours}positions"),
        rest(f"{theirs}embeddings.patch_embeddings.projection", f"{ours}embedding.proj"),
        *transformers_block(f"{theirs}encoder.layer.{{}}", f"{ours}blocks.{{}}"),
        rest(f"{theirs}layernorm", f"{ours}norm"),
    ]


def vit_arguments(
    state: Mapping[str, Tensor], *, patches: str, positions: str, token: str, block: str, stride: int = 1, more: int = 0
) -> dict[str, Any]:
    """embed_dim, depth, heads, patch, image_size and in_channels, and patch_bias where there is none; the grid is taken for a
    square.

    patches, positions, token   keys of the patch embedding's filters, of the table, of the class token
    block                       key of a parameter of block {}
    stride                      of the network before the patches
    more                        rows of the table beside the class token's that are no patch's
    """
    filters = state[patches]
    embed_dim = filters.shape[0]
    depth = 0
    while block.format(depth) in state:
        depth += 1
    rows, prefix = state[positions].shape[1], int(token in state) + more
    side = math.isqrt(rows)
    if side * side == rows:  # no row for a class token
        prefix = 0
    elif (side := math.isqrt(rows - prefix)) ** 2 != rows - prefix:
        raise ValueError(f"{positions} has {rows} rows, which with {prefix} of a class token are no square of patches")
    return {
        "embed_dim": embed_dim,
        "depth": depth,
        "heads": HEADS.get(embed_dim) or max(embed_dim // 64, 1),
        "patch": filters.shape[-1],
        "image_size": side * filters.shape[-1] * stride,
        "in_channels": filters.shape[1],
        **({} if patches.replace("weight", "bias") in state else {"patch_bias": False}),
    }


TIMM_KEYS: dict[str, Any] = {
    "patches": "patch_embed.proj.weight",
    "positions": "pos_embed",
    "token": "cls_token",
    "block": "blocks.{}.norm1.weight",
}
OPENMMLAB_KEYS: dict[str, Any] = {
    "patches": "patch_embed.projection.weight",
    "positions": "pos_embed",
    "token": "cls_token",
    "block": "layers.{}.ln1.weight",
}
MMPRETRAIN_KEYS: dict[str, Any] = {name: f"backbone.{key}" for name, key in OPENMMLAB_KEYS.items()}
TORCHVISION_KEYS: dict[str, Any] = {
    "patches": "conv_proj.weight",
    "positions": "encoder.pos_embedding",
    "token": "class_token",
    "block": "encoder.layers.encoder_layer_{}.ln_1.weight",
}


def transformers_keys(prefix: str) -> dict[str, Any]:
    return {
        "patches": f"{prefix}embeddings.patch_embeddings.projection.weight",
        "positions": f"{prefix}embeddings.position_embeddings",
        "token": f"{prefix}embeddings.cls_token",
        "block": f"{prefix}encoder.layer.{{}}.layernorm_before.weight",
    }


def _timm_arguments(state: Mapping[str, Tensor], norm: str) -> dict[str, Any]:
    """norm: "norm" of the class token, "fc_norm" of the patches' mean"""
    own, registers = vit_arguments(state, **TIMM_KEYS), state.get("reg_token")
    if norm == "norm" and "cls_token" not in state:
        raise ValueError("a mean of normed patches, without a class token, is not what this classifier sees")
    if norm == "fc_norm" and "fc_norm.weight" not in state:
        raise ValueError("there is no norm of the patches' mean")
    square = math.isqrt(state["pos_embed"].shape[1]) ** 2 == state["pos_embed"].shape[1]
    return own | {
        "class_token": "cls_token" in state,
        "class_position": not square,
        "registers": 0 if registers is None else registers.shape[1],
        "pool": "token" if norm == "norm" else "mean",
        "layer_scale": 1e-5 if "blocks.0.ls1.gamma" in state else None,
        "final_norm": f"{norm}.weight" in state,
        "num_classes": outputs_of(state, "head.weight"),
    }


def _arguments(state: Mapping[str, Tensor], keys: Mapping[str, Any], head: str, **more: Any) -> dict[str, Any]:
    return vit_arguments(state, **keys) | {"num_classes": outputs_of(state, head)} | more


def _mae_facts(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Its pictures have ImageNet's colours."""
    return {"preprocessing": Preprocessing().as_dict()}


def _mmseg_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Their ImageNet files, and those that their converter makes of timm's, have no head."""
    return vit_arguments(state, **OPENMMLAB_KEYS) | {"final_norm": "ln1.weight" in state, "num_classes": None}


def _torchvision_facts(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """ImageNet's colours; its fine-tuned ones, of other sizes, see whole squares."""
    side = vit_arguments(state, **TORCHVISION_KEYS)["image_size"]
    return {"preprocessing": Preprocessing(crop_size=side, crop_ratio=0.875 if side == 224 else 1.0).as_dict()}


def _layout(
    name: str,
    rules: list[Rule],
    arguments: Callable[..., dict[str, Any]],
    source: str,
    facts: Callable[[Mapping[str, Tensor]], dict[str, Any]] = lambda state: {},
    others: tuple[str, ...] = (),
) -> Layout:
    return Layout(name, "vit_base_patch16_224", tuple(rules), arguments, source, facts, others=others)


# hybrids ----------------------------------------------------------------------------------------------------------------


def hybrid_timm_rules(theirs: str = "", ours: str = "") -> list[Rule]:
    """The table of a hybrid with stages, without final norm and classifier."""
    stem, first = f"{theirs}patch_embed.backbone", f"{ours}stem.first"
    block, mine = f"{stem}.stages.{{}}.blocks.{{}}", f"{ours}stem.stages.{{}}.{{}}"
    rules = _unit(f"{stem}.stem.conv", f"{stem}.stem.norm", first)
    for i in (1, 2, 3):
        rules += _unit(f"{block}.conv{i}", f"{block}.norm{i}", f"{mine}.conv{i}")
    rules += _unit(f"{block}.downsample.conv", f"{block}.downsample.norm", f"{mine}.shortcut")
    return [*rules, *timm_rules(theirs, ours)]


def _unit(conv: str, norm: str, ours: str) -> list[Rule]:
    return [Rule(f"{conv}.weight", f"{ours}.conv.weight"), rest(norm, f"{ours}.norm")]


def _hybrid_arguments(state: Mapping[str, Tensor], first: str) -> dict[str, Any]:
    stem = state[f"patch_embed.backbone.{first}.weight"]
    blocks: list[int] = []
    while f"patch_embed.backbone.stages.{len(blocks)}.blocks.0.conv1.weight" in state:
        count = 0
        while f"patch_embed.backbone.stages.{len(blocks)}.blocks.{count}.conv1.weight" in state:
            count += 1
        blocks.append(count)
    own = vit_arguments(state, **TIMM_KEYS, stride=4 * 2 ** max(len(blocks) - 1, 0))
    return own | {
        "stem_blocks": tuple(blocks),
        "stem_width": stem.shape[0],
        "in_channels": stem.shape[1],
        "final_norm": "norm.weight" in state,
        "num_classes": outputs_of(state, "head.weight"),
    }


TIMM = "https://github.com/huggingface/pytorch-image-models"
MAE = ("https://github.com/facebookresearch/mae",)  # whose encoders, as pretrained and as fine-tuned, are timm's
TRANSFORMERS = "https://github.com/huggingface/transformers"
NORM, HEAD = rest("norm", "norm"), rest("head", "classifier")
STEM = _unit("patch_embed.backbone.conv", "patch_embed.backbone.norm", "stem.first")
LAYOUTS = (
    _layout("vit/timm", [*timm_rules(), NORM, HEAD], partial(_timm_arguments, norm="norm"), TIMM, others=MAE),
    _layout(
        "vit/timm_mean",
        [*timm_rules(), rest("fc_norm", "norm"), HEAD],
        partial(_timm_arguments, norm="fc_norm"),
        TIMM,
        others=MAE,
    ),
    _layout(
        "vit/torchvision",
        torchvision_rules(),
        partial(_arguments, keys=TORCHVISION_KEYS, head="heads.head.weight"),
        "https://github.com/pytorch/vision",
        _torchvision_facts,
    ),
    _layout(
        "vit/transformers",
        [*transformers_rules(), rest("classifier", "classifier")],
        partial(_arguments, keys=transformers_keys("vit."), head="classifier.weight", norm_eps=1e-12),
        TRANSFORMERS,
    ),
    _layout(
        "vit/transformers_bare",
        [*transformers_rules(""), Rule("pooler.{*}", None)],
        partial(_arguments, keys=transformers_keys(""), head="", norm_eps=1e-12),
        TRANSFORMERS,
    ),
    _layout(
        "vit/mmpretrain",
        [
            *openmmlab_rules("backbone.", "", MMPRETRAIN_BLOCK),
            rest("backbone.ln1", "norm"),
            rest("head.layers.head", "classifier"),
        ],
        partial(_arguments, keys=MMPRETRAIN_KEYS, head="head.layers.head.weight"),
        "https://github.com/open-mmlab/mmpretrain",
    ),
    _layout(
        "vit/mmpretrain_mean",
        [
            *openmmlab_rules("backbone.", "", MMPRETRAIN_BLOCK),
            rest("backbone.ln2", "norm"),
            rest("head.fc", "classifier"),
        ],
        partial(_arguments, keys=MMPRETRAIN_KEYS, head="head.fc.weight", pool="mean"),
        "https://github.com/open-mmlab/mmpretrain",
        _mae_facts,
    ),
    _layout("vit/mmseg", mmseg_rules(), _mmseg_arguments, "https://github.com/open-mmlab/mmsegmentation"),
    Layout(
        "vit_hybrid/timm",
        "vit_small_r26_s32_224",
        (*hybrid_timm_rules(), NORM, HEAD),
        partial(_hybrid_arguments, first="stem.conv"),
        TIMM,
    ),
    Layout(
        "vit_hybrid/timm_stem",
        "vit_tiny_r_s16_p8_224",
        (*STEM, *timm_rules(), NORM, HEAD),
        partial(_hybrid_arguments, first="conv"),
        TIMM,
    ),
)
