"""BEiT's pretraining, encoder and linear layer: Microsoft's unilm, transformers' and mmpretrain's.

mmpretrain's file holds the tokenizer, too, which is left out; its table was read off its public code.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from segmentarium.weights.layouts.beit import beit_arguments, openmmlab_rules, transformers_rules, unilm_rules
from segmentarium.weights.layouts.parts import rest
from segmentarium.weights.table import Layout, Rule

OURS = "backbone."
SIZES = {(768, 12, 12): "beit_b", (1024, 24, 16): "beit_l"}


def _arguments(state: Mapping[str, Tensor], head: str, **read: str) -> dict[str, Any]:
    """head: the weight that gives the scores of words; read: as `beit_arguments` has it"""
    own = beit_arguments(state, **read)
    size = (own["embed_dim"], own["depth"], own["heads"])
    kept = () if size in SIZES else ("embed_dim", "depth", "heads", "layer_scale")
    inner = {name: own[name] for name in kept}
    if own["image_size"] != 224:
        inner["image_size"] = own["image_size"]
    if not own["shared_bias"]:
        inner["shared_bias"] = False
    return {
        "backbone": SIZES.get(size, "beit_b"),
        "backbone_arguments": inner,
        "vocabulary": state[head].shape[0],
        "in_channels": own["in_channels"],
    }


def _head(token: str, norm: str, head: str) -> list[Rule]:
    return [Rule(token, f"{OURS}mask_token"), rest(norm, "norm"), rest(head, "head")]


LAYOUTS = (
    Layout(
        "beit_mim/unilm",
        "beit_mim",
        (*unilm_rules("", OURS), *_head("mask_token", "norm", "lm_head")),
        partial(_arguments, head="lm_head.weight"),
        "https://github.com/microsoft/unilm",
    ),
    Layout(
        "beit_mim/transformers",
        "beit_mim",
        (*transformers_rules("beit.", OURS), *_head("beit.embeddings.mask_token", "layernorm", "lm_head")),
        partial(
            _arguments,
            head="lm_head.weight",
            blocks="beit.encoder.layer.",
            embedding="beit.embeddings.patch_embeddings.projection.weight",
        ),
        "https://github.com/huggingface/transformers",
    ),
    Layout(
        "beit_mim/mmpretrain",
        "beit_mim",
        (
            Rule("target_generator.{*}", None),
            Rule("backbone.rel_pos_bias.relative_position_bias_table", f"{OURS}shared_positions.table"),
            Rule("backbone.rel_pos_bias.relative_position_index", None),
            *_head("backbone.mask_token", "backbone.ln1", "head.cls_head"),
            *openmmlab_rules("backbone.", OURS),
        ),
        partial(
            _arguments,
            head="head.cls_head.weight",
            blocks="backbone.layers.",
            embedding="backbone.patch_embed.projection.weight",
        ),
        "https://github.com/open-mmlab/mmpretrain",
    ),
)
