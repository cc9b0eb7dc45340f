"""FF-only as its author stores it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from segmentarium.weights.layouts.parts import rest
from segmentarium.weights.table import Golden, Layout, Rule, outputs_of


def _arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The patches' number is that of the layers over them; of how many rows they are says the table of positions, where it has
    as many places, and else they are a square."""
    embedding = state["patch_embed.proj.weight"]
    table = state["pos_encoding.pos_embed"].shape[-2:]
    patches = state["blocks.0.norm2.weight"].shape[0] - 1
    rows, columns = table if table.numel() == patches else (math.isqrt(patches),) * 2
    patch = embedding.shape[-1]
    return {
        "embed_dim": embedding.shape[0],
        "depth": len({key.split(".")[1] for key in state if key.startswith("blocks.")}),
        "patch": patch,
        "image_size": rows * patch if rows == columns else (rows * patch, columns * patch),
        "position_grid": tuple(table),
        "in_channels": embedding.shape[1],
        "num_classes": outputs_of(state, "head.weight"),
    }


RULES = (
    Rule("cls_token", "class_token"),
    Rule("pos_encoding.cls_pos_embed", "class_position"),
    Rule("pos_encoding.pos_embed", "positions"),
    rest("patch_embed", "embedding"),
    rest("blocks.{}.mlp1", "blocks.{}.channel_mlp"),
    rest("blocks.{}.mlp2", "blocks.{}.token_mlp"),
    rest("blocks", "blocks"),
    rest("norm", "norm"),
    rest("head", "classifier"),
)
LAYOUTS = (
    Layout(
        "ff_only/authors",
        "ff_only_tiny",
        RULES,
        _arguments,
        "https://github.com/lukemelas/do-you-even-need-attention",
        goldens={
            "backbone/ff-only-linear-tiny": Golden({"out": "classify"}),
            "backbone/ff-only-small": Golden({"out": "classify"}),
        },
    ),
)
