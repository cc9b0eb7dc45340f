"""MLP-Mixer as timm and mmpretrain store it; the latter's table was read off its public code."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from segmentarium.weights.layouts.parts import rest
from segmentarium.weights.table import Layout, outputs_of


def _arguments(
    state: Mapping[str, Tensor],
    *,
    patches: str,
    blocks: str,
    places: str,
    channels: str,
    head: str,
    norm_eps: float,
) -> dict[str, Any]:
    """blocks: prefix of a block {}; places, channels: of the first layers within it"""
    filters, depth = state[patches], 0
    while f"{blocks.format(depth)}.{places}.weight" in state:
        depth += 1
    hidden, tokens = state[f"{blocks.format(0)}.{places}.weight"].shape
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise ValueError(f"the first layer sees {tokens} patches, which are no square")
    return {
        "embed_dim": filters.shape[0],
        "depth": depth,
        "place_hidden": hidden,
        "hidden": state[f"{blocks.format(0)}.{channels}.weight"].shape[0],
        "patch": filters.shape[-1],
        "image_size": side * filters.shape[-1],
        "norm_eps": norm_eps,
        "in_channels": filters.shape[1],
        "num_classes": outputs_of(state, head),
    }


LAYOUTS = (
    Layout(
        "mlp_mixer/timm",
        "mlp_mixer_b16",
        (
            rest("stem.proj", "embedding.proj"),
            rest("blocks.{}.norm1", "blocks.{}.norm1"),
            rest("blocks.{}.mlp_tokens", "blocks.{}.place_mlp"),
            rest("blocks.{}.norm2", "blocks.{}.norm2"),
            rest("blocks.{}.mlp_channels", "blocks.{}.channel_mlp"),
            rest("norm", "norm"),
            rest("head", "classifier"),
        ),
        partial(
            _arguments,
            patches="stem.proj.weight",
            blocks="blocks.{}",
            places="mlp_tokens.fc1",
            channels="mlp_channels.fc1",
            head="head.weight",
            norm_eps=1e-6,
        ),
        "https://github.com/huggingface/pytorch-image-models",
    ),
    Layout(
        "mlp_mixer/mmpretrain",
        "mlp_mixer_b16",
        (
            rest("backbone.patch_embed.projection", "embedding.proj"),
            rest("backbone.layers.{}.ln1", "blocks.{}.norm1"),
            rest("backbone.layers.{}.token_mix.layers.0.0", "blocks.{}.place_mlp.fc1"),
            rest("backbone.layers.{}.token_mix.layers.1", "blocks.{}.place_mlp.fc2"),
            rest("backbone.layers.{}.ln2", "blocks.{}.norm2"),
            rest("backbone.layers.{}.channel_mix.layers.0.0", "blocks.{}.channel_mlp.fc1"),
            rest("backbone.layers.{}.channel_mix.layers.1", "blocks.{}.channel_mlp.fc2"),
            rest("backbone.ln1", "norm"),
            rest("head.fc", "classifier"),
        ),
        partial(
            _arguments,
            patches="backbone.patch_embed.projection.weight",
            blocks="backbone.layers.{}",
            places="token_mix.layers.0.0",
            channels="channel_mix.layers.0.0",
            head="head.fc.weight",
            norm_eps=1e-5,
        ),
        "https://github.com/open-mmlab/mmpretrain",
    ),
)
