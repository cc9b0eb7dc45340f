"""BEiT as Microsoft's unilm and timm (they agree), transformers, mmpretrain and mmsegmentation store it.

`unilm_rules`, `transformers_rules` and `openmmlab_rules` serve the tables of systems that have a BEiT inside.  mmpretrain's last
norm and classifier were read in its code, as no such package is at hand; a stored network of mmsegmentation proves the rest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from segmentarium.weights.layouts.parts import rest
from segmentarium.weights.table import Layout, Rule, outputs_of


def mae_rules(theirs: str = "", ours: str = "") -> list[Rule]:
    """mmsegmentation's MAE: its BEiT with places of patches and a bias of keys, prefixes ending in a dot."""
    return [
        Rule(f"{theirs}pos_embed", f"{ours}places"),
        Rule(f"{theirs}layers.{{}}.attn.qkv.bias", f"{ours}blocks.{{}}.attention.qkv.bias"),
        *openmmlab_rules(theirs, ours),
    ]


def _attention(theirs: str, ours: str, number: str) -> list[Rule]:
    return [
        Rule(f"{theirs}.q_bias", f"{ours}.query_bias"),
        Rule(f"{theirs}.v_bias", f"{ours}.value_bias"),
        Rule(f"{theirs}.qkv.weight", f"{ours}.qkv.weight"),
        rest(f"{theirs}.proj", f"{ours}.proj"),
        Rule(f"{theirs}.relative_position_bias_table", f"{number}.table"),
        Rule(f"{theirs}.relative_position_index", None),  # made of the grid's sides
    ]


def unilm_rules(theirs: str = "", ours: str = "") -> list[Rule]:
    """Prefixes ending in a dot; without norm and classifier behind the blocks."""
    block, mine = f"{theirs}blocks.{{}}", f"{ours}blocks.{{}}"
    return [
        Rule(f"{theirs}cls_token", f"{ours}class_token"),
        rest(f"{theirs}patch_embed.proj", f"{ours}embedding.proj"),
        Rule(f"{theirs}rel_pos_bias.relative_position_bias_table", f"{ours}shared_positions.table"),
        Rule(f"{theirs}rel_pos_bias.relative_position_index", None),
        *_attention(f"{block}.attn", f"{mine}.attention", f"{ours}positions.{{}}"),
        Rule(f"{block}.gamma_1", f"{mine}.scale1.gamma"),
        Rule(f"{block}.gamma_2", f"{mine}.scale2.gamma"),
        rest(f"{block}.norm1", f"{mine}.norm1"),
        rest(f"{block}.norm2", f"{mine}.norm2"),
        rest(f"{block}.mlp", f"{mine}.mlp"),
    ]


def openmmlab_rules(theirs: str = "", ours: str = "") -> list[Rule]:
    """Prefixes ending in a dot; without norm and classifier behind the blocks."""
    block, mine = f"{theirs}layers.{{}}", f"{ours}blocks.{{}}"
    return [
        Rule(f"{theirs}cls_token", f"{ours}class_token"),
        rest(f"{theirs}patch_embed.projection", f"{ours}embedding.proj"),
        *_attention(f"{block}.attn", f"{mine}.attention", f"{ours}positions.{{}}"),
        Rule(f"{block}.gamma_1", f"{mine}.scale1.gamma"),
        Rule(f"{block}.gamma_2", f"{mine}.scale2.gamma"),
        rest(f"{block}.ln1", f"{mine}.norm1"),
        rest(f"{block}.ln2", f"{mine}.norm2"),
        rest(f"{block}.ffn.layers.0.0", f"{mine}.mlp.fc1"),
        rest(f"{block}.ffn.layers.1", f"{mine}.mlp.fc2"),
    ]


def transformers_rules(theirs: str = "beit.", ours: str = "") -> list[Rule]:
    """Prefixes ending in a dot; without norm and classifier behind the blocks."""
    block, mine = f"{theirs}encoder.layer.{{}}", f"{ours}blocks.{{}}"
    attention = f"{block}.attention.attention"
    stack = tuple(f"{attention}.{name}.weight" for name in ("query", "key", "value"))
    table = "relative_position_bias.relative_position_bias_table"
    return [
        Rule(f"{theirs}embeddings.cls_token", f"{ours}class_token"),
        rest(f"{theirs}embeddings.patch_embeddings.projection", f"{ours}embedding.proj"),
        Rule(f"{theirs}encoder.{table}", f"{ours}shared_positions.table"),
        Rule(f"{attention}.{table}", f"{ours}positions.{{}}.table"),
        # older files have what is made of the grid's sides
        Rule(f"{theirs}encoder.relative_position_bias.relative_position_index", None),
        Rule(f"{attention}.relative_position_bias.relative_position_index", None),
        Rule(stack, f"{mine}.attention.qkv.weight"),
        Rule(f"{attention}.query.bias", f"{mine}.attention.query_bias"),
        Rule(f"{attention}.value.bias", f"{mine}.attention.value_bias"),
        rest(f"{block}.attention.output.dense", f"{mine}.attention.proj"),
        Rule(f"{block}.lambda_1", f"{mine}.scale1.gamma"),
        Rule(f"{block}.lambda_2", f"{mine}.scale2.gamma"),
        rest(f"{block}.layernorm_before", f"{mine}.norm1"),
        rest(f"{block}.layernorm_after", f"{mine}.norm2"),
        rest(f"{block}.intermediate.dense", f"{mine}.mlp.fc1"),
        rest(f"{block}.output.dense", f"{mine}.mlp.fc2"),
    ]


def beit_arguments(
    state: Mapping[str, Tensor],
    blocks: str = "blocks.",
    embedding: str = "patch_embed.proj.weight",
    head: str = "head.weight",
) -> dict[str, Any]:
    """The arguments of a BEiT, read off the shapes.  A table of no square grid is taken for that of the rectangle nearest to
    one, wider than high.

    blocks      what the blocks' keys begin with
    embedding   the convolution of patches
    head        the weight of the classifier
    """
    tables = [key for key in state if key.endswith("relative_position_bias_table")]
    table, patches = state[tables[0]], state[embedding]
    steps = table.shape[0] - 3
    down = next(rows for rows in range(math.isqrt(steps), 0, -1) if steps % rows == 0)
    height, width = ((steps + 1) // 2 * patches.shape[-1] for steps in (down, steps // down))
    depth = len({key[len(blocks) :].split(".")[0] for key in state if key.startswith(blocks)})
    return {
        "embed_dim": patches.shape[0],
        "depth": depth,
        "heads": table.shape[1],
        "image_size": height if height == width else (height, width),
        "shared_bias": len(tables) == 1 and not tables[0].startswith(blocks),
        "layer_scale": 1e-5 if depth > 12 else 0.1,  # where it started; the files have where it went
        "in_channels": patches.shape[1],
        "num_classes": outputs_of(state, head),
    }


LAYOUTS = (
    Layout(
        "beit/unilm",
        "beit_b",
        (*unilm_rules(), rest("fc_norm", "classifier.0"), rest("head", "classifier.1")),
        beit_arguments,
        "https://github.com/microsoft/unilm",
        others=("https://github.com/huggingface/pytorch-image-models",),
    ),
    Layout(
        "beit/transformers",
        "beit_b",
        (*transformers_rules(), rest("beit.pooler.layernorm", "classifier.0"), rest("classifier", "classifier.1")),
        partial(
            beit_arguments,
            blocks="beit.encoder.layer.",
            embedding="beit.embeddings.patch_embeddings.projection.weight",
            head="classifier.weight",
        ),
        "https://github.com/huggingface/transformers",
    ),
    Layout(
        "beit/mmpretrain",
        "beit_b",
        (*openmmlab_rules("backbone."), rest("backbone.ln2", "classifier.0"), rest("head.fc", "classifier.1")),
        partial(
            beit_arguments,
            blocks="backbone.layers.",
            embedding="backbone.patch_embed.projection.weight",
            head="head.fc.weight",
        ),
        "https://github.com/open-mmlab/mmpretrain",
    ),
    Layout(
        "beit/mmseg",
        "beit_b",
        tuple(openmmlab_rules()),
        partial(beit_arguments, blocks="layers.", embedding="patch_embed.projection.weight"),
        "https://github.com/open-mmlab/mmsegmentation",
    ),
)
