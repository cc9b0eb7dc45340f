"""RepMLPNet as its authors and mmpretrain store it, as trained or with the locality injected.

The authors' keys rest on stored references and their code, mmpretrain's on its code (`backbones/repmlp.py`, `SELayer`,
`LinearClsHead`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from segmentarium.weights.layouts.parts import conv_bn, rest
from segmentarium.weights.table import Golden, Layout, Rule, outputs_of


def block_rules(theirs: str, ours: str, gates: tuple[str, str] = ("fc1", "fc2")) -> list[Rule]:
    """A RepMLP block; names with a dot at their ends where they are not empty."""
    squeeze, excite = gates
    return [
        rest(f"{theirs}gp.{squeeze}", f"{ours}squeeze"),
        rest(f"{theirs}gp.{excite}", f"{ours}excite"),
        Rule(f"{theirs}fc3.weight", f"{ours}fc.weight", theirs_ndim=4),
        Rule(f"{theirs}fc3.bias", f"{ours}fc.bias"),
        rest(f"{theirs}fc3_bn", f"{ours}fc_norm"),
        *conv_bn(f"{theirs}repconv{{}}", f"{ours}local.{{}}"),
    ]


def unit_rules(theirs: str, norms: tuple[str, str], gates: tuple[str, str] = ("fc1", "fc2")) -> list[Rule]:
    """The units of all stages; `theirs` with a dot at its end."""
    unit, ours = f"{theirs}{{}}.{{}}.", "stages.{}.{}."
    rules = block_rules(f"{unit}repmlp_block.", f"{ours}block.", gates)
    for i in (1, 2):
        rules += [*conv_bn(f"{unit}ffn_block.ffn_fc{i}", f"{ours}fc{i}"), rest(unit + norms[i - 1], f"{ours}norm{i}")]
    return rules


def _embeds(first: str, later: str, conv: str = "conv", norm: str = "bn") -> list[Rule]:
    rules = [rest(f"{first}.{conv}", "embeds.0.conv"), rest(f"{first}.{norm}", "embeds.0.norm")]
    return rules + [rule for i in (1, 2, 3) for rule in conv_bn(f"{later}.{i - 1}", f"embeds.{i}")]


def _arguments(state: Mapping[str, Tensor], *, prefix: str, first: str, head: str) -> dict[str, Any]:
    """The parts' height and width are not told apart: they are taken as near to each other as their product allows."""
    blocks = [
        {key.removeprefix(f"{prefix}{i}.").split(".")[0] for key in state if key.startswith(f"{prefix}{i}.")}
        for i in range(4)
    ]
    inner = [f"{prefix}{i}.0.repmlp_block." for i in range(4)]
    positions = state[f"{inner[3]}fc3.weight"].shape[1]
    height = max(n for n in range(1, math.isqrt(positions) + 1) if positions % n == 0)
    kernels = sorted({int(key.split("repconv")[1].split(".")[0]) for key in state if f"{inner[0]}repconv" in key})
    deployed = f"{inner[0]}fc3.bias" in state
    sets = [state[f"{name}fc3.weight"] for name in inner]
    return {
        "channels": [state[f"{prefix}{i}.0.ffn_block.ffn_fc1.conv.weight"].shape[1] for i in range(4)],
        "depths": [len(found) for found in blocks],
        "share_sets": [weight.shape[0] // weight.shape[1] for weight in sets],
        "img_size": [32 * height, 32 * positions // height],
        "kernels": kernels or ([1, 3] if deployed else []),
        "deployed": deployed,
        "in_channels": state[first].shape[1],
        "num_classes": outputs_of(state, head),
    }


LAYOUTS = (
    Layout(
        "repmlp/authors",
        "repmlpnet_t224",
        (
            *_embeds("conv_embedding", "embeds"),
            *unit_rules("stages.", ("prebn1", "prebn2")),
            rest("head_norm", "norm"),
            rest("head", "classifier"),
        ),
        partial(_arguments, prefix="stages.", first="conv_embedding.conv.weight", head="head.weight"),
        "https://github.com/DingXiaoH/RepMLP",
        goldens={"backbone/repmlpnet-small": Golden({"out/train_form": "classify", "out/deploy": "classify"})},
    ),
    Layout(
        "repmlp/mmpretrain",
        "repmlpnet_b224",
        (
            *_embeds("backbone.patch_embed", "backbone.downsample_layers", "projection", "norm"),
            *unit_rules("backbone.stages.", ("norm1", "norm2"), ("conv1.conv", "conv2.conv")),
            rest("backbone.final_norm", "norm"),
            rest("head.fc", "classifier"),
        ),
        partial(
            _arguments,
            prefix="backbone.stages.",
            first="backbone.patch_embed.projection.weight",
            head="head.fc.weight",
        ),
        "https://github.com/open-mmlab/mmpretrain",
    ),
)
