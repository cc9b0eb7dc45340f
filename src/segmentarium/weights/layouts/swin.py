"""Swin Transformer as Microsoft, timm, torchvision, transformers, mmpretrain and mmsegmentation store it.

`microsoft_rules`, `transformers_rules` and `mmseg_rules` serve the tables of systems that have a Swin inside.  The OpenMMLab
packages merge patches by unfolding, which counts the four places of a patch within each channel, row by row; the others stack
four maps, column by column.  mmpretrain's keys and those of mmsegmentation's converted ImageNet files were read in their code,
as no such package is at hand; a stored network of mmsegmentation proves the rest of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from segmentarium.weights.layouts.parts import rest
from segmentarium.weights.table import Layout, Rule, outputs_of

STAGES = range(4)
UNFOLDED = ((-1, 2, 2), (2, 1, 0))  # channel, row, column there; here column, row, channel


def _block(theirs: str, ours: str, attention: str, fc1: str, fc2: str) -> list[Rule]:
    return [
        rest(f"{theirs}.norm1", f"{ours}.norm1"),
        rest(f"{theirs}.norm2", f"{ours}.norm2"),
        Rule(f"{theirs}.{attention}.relative_position_bias_table", f"{ours}.attention.table"),
        Rule(f"{theirs}.{attention}.relative_position_index", None),  # made of the window's side
        Rule(f"{theirs}.attn_mask", None),  # made of the picture's
        rest(f"{theirs}.{attention}.qkv", f"{ours}.attention.qkv"),
        rest(f"{theirs}.{attention}.proj", f"{ours}.attention.proj"),
        rest(f"{theirs}.{fc1}", f"{ours}.mlp.fc1"),
        rest(f"{theirs}.{fc2}", f"{ours}.mlp.fc2"),
    ]


def _norms(theirs: str, ours: str) -> list[Rule]:
    """Of the features, numbered."""
    return [rest(f"{theirs}norm{i}", f"{ours}norms.{i}") for i in STAGES]


def microsoft_rules(theirs: str = "", ours: str = "", *, dense: bool = False, merges_first: bool = False) -> list[Rule]:
    """Prefixes ending in a dot; without the classifier.

    dense         each feature has a norm, as in their code for detection and segmentation; else the last alone
    merges_first  a stage begins by merging, as in timm; else the one before it ends so
    """
    block = _block(f"{theirs}layers.{{}}.blocks.{{}}", f"{ours}stages.{{}}.blocks.{{}}", "attn", "mlp.fc1", "mlp.fc2")
    first = 1 if merges_first else 0
    merges = [rest(f"{theirs}layers.{i + first}.downsample", f"{ours}stages.{i + 1}.merge") for i in range(3)]
    norms = _norms(theirs, ours) if dense else [rest(f"{theirs}norm", f"{ours}norms.3")]
    return [rest(f"{theirs}patch_embed", f"{ours}embedding"), *block, *merges, *norms]


def torchvision_rules() -> list[Rule]:
    """Without the classifier; blocks and merging alternate in one row."""
    rules = [rest("features.0.0", "embedding.proj"), rest("features.0.2", "embedding.norm"), rest("norm", "norms.3")]
    for i in STAGES:
        rules += _block(f"features.{2 * i + 1}.{{}}", f"stages.{i}.blocks.{{}}", "attn", "mlp.0", "mlp.3")
    return [*rules, *(rest(f"features.{2 * i}", f"stages.{i}.merge") for i in (1, 2, 3))]


def transformers_rules(theirs: str = "swin.", ours: str = "", *, dense: bool = False) -> list[Rule]:
    """Prefixes ending in a dot; without the classifier.  dense: each feature has a norm; else the last alone."""
    norms = [rest(f"{theirs}layernorm", f"{ours}norms.3")]
    if dense:
        norms = [rest(f"{theirs}hidden_states_norms.stage{i + 1}", f"{ours}norms.{i}") for i in STAGES]
    block, mine = f"{theirs}encoder.layers.{{}}.blocks.{{}}", f"{ours}stages.{{}}.blocks.{{}}"
    stack = tuple(f"{block}.attention.self.{name}.{{*}}" for name in ("query", "key", "value"))
    return [
        rest(f"{theirs}embeddings.patch_embeddings.projection", f"{ours}embedding.proj"),
        rest(f"{theirs}embeddings.norm", f"{ours}embedding.norm"),
        rest(f"{block}.layernorm_before", f"{mine}.norm1"),
        rest(f"{block}.layernorm_after", f"{mine}.norm2"),
        Rule(f"{block}.attention.self.relative_position_bias_table", f"{mine}.attention.table"),
        Rule(f"{block}.attention.self.relative_position_index", None),  # older files have it
        Rule(stack, f"{mine}.attention.qkv.{{*}}"),
        rest(f"{block}.attention.output.dense", f"{mine}.attention.proj"),
        rest(f"{block}.intermediate.dense", f"{mine}.mlp.fc1"),
        rest(f"{block}.output.dense", f"{mine}.mlp.fc2"),
        *(rest(f"{theirs}encoder.layers.{i}.downsample", f"{ours}stages.{i + 1}.merge") for i in range(3)),
        *norms,
    ]


def mmseg_rules(theirs: str = "", ours: str = "") -> list[Rule]:
    """Prefixes ending in a dot; without the classifier."""
    block, mine = f"{theirs}stages.{{}}.blocks.{{}}", f"{ours}stages.{{}}.blocks.{{}}"
    rules = [
        rest(f"{theirs}patch_embed.projection", f"{ours}embedding.proj"),
        rest(f"{theirs}patch_embed.norm", f"{ours}embedding.norm"),
        *_block(block, mine, "attn.w_msa", "ffn.layers.0.0", "ffn.layers.1"),
    ]
    for i in range(3):
        for name in ("norm", "reduction"):
            merge, our_merge = f"{theirs}stages.{i}.downsample.{name}.{{}}", f"{ours}stages.{i + 1}.merge.{name}.{{}}"
            rules.append(Rule(merge, our_merge, axes=UNFOLDED))
    return [*rules, *_norms(theirs, ours), rest(f"{theirs}norm", f"{ours}norms.3")]  # the last: of converted files


def swin_arguments(
    state: Mapping[str, Tensor],
    stage: str = "layers.{}.blocks",
    attention: str = "attn",
    embedding: str = "patch_embed.proj",
    norm: str = "norm{}",
    head: str = "head.weight",
    first: int = 0,
    step: int = 1,
) -> dict[str, Any]:
    """The arguments of a Swin, read off the shapes.

    stage        where a stage's blocks stand, {} for `first` plus `step` times its number
    attention    of a block: where the table is
    embedding    the convolution of patches
    norm         of each feature, {} for its number
    head         the weight of the classifier; where there is none, the features with a norm come out
    """
    depths = []
    for i in STAGES:
        prefix = f"{stage.format(first + step * i)}."
        depths.append(len({key[len(prefix) :].split(".")[0] for key in state if key.startswith(prefix)}))
    table = state[f"{stage.format(first)}.0.{attention}.relative_position_bias_table"]
    patches, classes = state[f"{embedding}.weight"], outputs_of(state, head)
    found: dict[str, Any] = {
        "embed_dim": patches.shape[0],
        "depths": tuple(depths),
        "window": (math.isqrt(table.shape[0]) + 1) // 2,
        "in_channels": patches.shape[1],
        "num_classes": classes,
    }
    if classes is None:
        found["out_indices"] = tuple(i for i in STAGES if f"{norm.format(i)}.weight" in state) or (3,)
    return found


def _mmseg_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    found = swin_arguments(state, "stages.{}.blocks", "attn.w_msa", "patch_embed.projection")
    return found | {"shift_all": True}


LAYOUTS = (
    Layout(
        "swin/microsoft",
        "swin_t",
        (*microsoft_rules(), rest("head", "classifier")),
        swin_arguments,
        "https://github.com/microsoft/Swin-Transformer",
    ),
    Layout(
        "swin/timm",
        "swin_t",
        (*microsoft_rules(merges_first=True), rest("head.fc", "classifier")),
        partial(swin_arguments, head="head.fc.weight"),
        "https://github.com/huggingface/pytorch-image-models",
    ),
    Layout(
        "swin/torchvision",
        "swin_t",
        (*torchvision_rules(), rest("head", "classifier")),
        partial(swin_arguments, stage="features.{}", embedding="features.0.0", first=1, step=2),
        "https://github.com/pytorch/vision",
    ),
    Layout(
        "swin/transformers",
        "swin_t",
        (*transformers_rules(), rest("classifier", "classifier")),
        partial(
            swin_arguments,
            stage="swin.encoder.layers.{}.blocks",
            attention="attention.self",
            embedding="swin.embeddings.patch_embeddings.projection",
            head="classifier.weight",
        ),
        "https://github.com/huggingface/transformers",
    ),
    Layout(
        "swin/mmpretrain",
        "swin_t",
        (*mmseg_rules("backbone."), rest("head.fc", "classifier")),
        partial(
            swin_arguments,
            stage="backbone.stages.{}.blocks",
            attention="attn.w_msa",
            embedding="backbone.patch_embed.projection",
            norm="backbone.norm{}",
            head="head.fc.weight",
        ),
        "https://github.com/open-mmlab/mmpretrain",
    ),
    Layout(
        "swin/mmseg", "swin_t", tuple(mmseg_rules()), _mmseg_arguments, "https://github.com/open-mmlab/mmsegmentation"
    ),
)
