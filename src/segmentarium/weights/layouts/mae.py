"""MAE's pretraining, encoder and decoder: the authors' files (timm's keys), transformers' and mmpretrain's.

mmpretrain's table was read off its public code.  transformers 5 writes other names for the decoder's blocks than the published
files have; both are read.  Files of an encoder alone are ViT's (`vit.py`).  The decoder's heads are in no
shape: one for each 32 channels, as published.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from segmentarium.preprocessing import Preprocessing
from segmentarium.weights.layouts.parts import rest
from segmentarium.weights.layouts.vit import (
    MMPRETRAIN_BLOCK,
    MMPRETRAIN_KEYS,
    TIMM_BLOCK,
    TIMM_KEYS,
    TRANSFORMERS,
    block_rules,
    openmmlab_rules,
    sized,
    timm_rules,
    transformers_block,
    transformers_keys,
    transformers_rules,
    vit_arguments,
)
from segmentarium.weights.table import Layout, Rule

OURS = "backbone."


def _decoder(theirs: str, norm: str, token: str) -> list[Rule]:
    """theirs: what the keys of its layers begin with, up to "embed", "pos_embed" and "pred"; token: of hidden patches"""
    return [
        Rule(token, "decoder.mask_token"),
        Rule(f"{theirs}pos_embed", "decoder.positions"),
        rest(f"{theirs}embed", "decoder.embed"),
        rest(norm, "decoder.norm"),
        rest(f"{theirs}pred", "decoder.predict"),
    ]


def _arguments(
    state: Mapping[str, Tensor], keys: Mapping[str, Any], embed: str, blocks: tuple[str, ...], **more: Any
) -> dict[str, Any]:
    """embed: key of the layer into the decoder; blocks: of a parameter of its block {}, by each of its names"""
    own = vit_arguments(state, **keys)
    dim, depth = state[embed].shape[0], 0
    while any(key.format(depth) in state for key in blocks):
        depth += 1
    return sized(own, 14 if own["embed_dim"] == 1280 else 16, 224, **more) | {
        "decoder_dim": dim,
        "decoder_depth": depth,
        "decoder_heads": max(dim // 32, 1),
    }


def _facts(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Its pictures have ImageNet's colours."""
    return {"preprocessing": Preprocessing(crop_size=224).as_dict()}


LAYOUTS = (
    Layout(
        "mae/authors",
        "mae",
        (
            *timm_rules("", OURS),
            rest("norm", f"{OURS}norm"),
            *_decoder("decoder_", "decoder_norm", "mask_token"),
            *block_rules("decoder_blocks.{}", "decoder.blocks.{}", TIMM_BLOCK),
        ),
        partial(_arguments, keys=TIMM_KEYS, embed="decoder_embed.weight", blocks=("decoder_blocks.{}.norm1.weight",)),
        "https://github.com/facebookresearch/mae",
        _facts,
    ),
    Layout(
        "mae/transformers",
        "mae",
        (
            *transformers_rules("vit.", OURS),
            *_decoder("decoder.decoder_", "decoder.decoder_norm", "decoder.mask_token"),
            *transformers_block("decoder.decoder_layers.{}", "decoder.blocks.{}"),
            *transformers_block("decoder.decoder_encoder.layer.{}", "decoder.blocks.{}"),
        ),
        partial(
            _arguments,
            keys=transformers_keys("vit."),
            embed="decoder.decoder_embed.weight",
            blocks=tuple(
                f"decoder.{name}.{{}}.layernorm_before.weight" for name in ("decoder_layers", "decoder_encoder.layer")
            ),
            norm_eps=1e-12,
            antialias=False,
        ),
        TRANSFORMERS,
        _facts,
    ),
    Layout(
        "mae/mmpretrain",
        "mae",
        (
            *openmmlab_rules("backbone.", OURS, MMPRETRAIN_BLOCK),
            rest("backbone.ln1", f"{OURS}norm"),
            *_decoder("neck.decoder_", "neck.ln1", "neck.mask_token"),
            *block_rules("neck.decoder_blocks.{}", "decoder.blocks.{}", MMPRETRAIN_BLOCK),
        ),
        partial(
            _arguments,
            keys=MMPRETRAIN_KEYS,
            embed="neck.decoder_embed.weight",
            blocks=("neck.decoder_blocks.{}.ln1.weight",),
        ),
        "https://github.com/open-mmlab/mmpretrain",
        _facts,
    ),
)
