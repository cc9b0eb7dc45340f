"""EANet and EAMLP as their authors store them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from segmentarium.weights.layouts.parts import conv_bn, neighbours, rest
from segmentarium.weights.layouts.resnet import block_rules, resnet_depth
from segmentarium.weights.table import Golden, Layout, Rule, outputs_of

SOURCE = "https://github.com/MenghaoGuo/EANet"


def attention_rules(theirs: str, ours: str) -> list[Rule]:
    """The block on a map, prefixes ending in a dot: theirs has convolutions where ours are linear."""
    return [
        Rule(f"{theirs}conv1.weight", f"{ours}query.weight", theirs_ndim=4),
        Rule(f"{theirs}conv1.bias", f"{ours}query.bias"),
        Rule(f"{theirs}linear_0.weight", f"{ours}key.weight", theirs_ndim=3),
        Rule(f"{theirs}linear_1.weight", f"{ours}value.weight", theirs_ndim=3),
        *neighbours(f"{theirs}conv2", f"{ours}project"),
    ]


def multi_head_rules(theirs: str, ours: str) -> list[Rule]:
    """Multi-head external attention, prefixes ending in a dot."""
    names = (("trans_dims", "query"), ("linear_0", "key"), ("linear_1", "value"), ("proj", "proj"))
    return [rest(f"{theirs}{a}", f"{ours}{b}") for a, b in names]


def _segmenter() -> list[Rule]:
    """Their stages are numbered 4 to 7 in a row that begins with the stem."""
    stem = (("0.0", "0.1"), ("0.3", "0.4"), ("0.6", "1"))
    rules = []
    for i, (conv, norm) in enumerate(stem):
        rules += [Rule(f"extractor.{conv}.weight", f"backbone.stem.{i}.conv.weight")]
        rules += [Rule(f"extractor.{norm}.{{}}", f"backbone.stem.{i}.norm.{{}}")]
    for rule in block_rules("", "backbone."):
        assert isinstance(rule.theirs, str)
        layer, _, inner = rule.theirs.partition(".")
        number = int(layer.removeprefix("layer")) + 3
        rules.append(Rule(f"extractor.{number}.{inner}", rule.ours))
    return [
        *rules,
        *conv_bn("fc0", "decoder.reduce"),
        *attention_rules("linu.", "decoder.attention."),
        *conv_bn("fc1.0", "decoder.mix"),
        rest("fc2", "decoder.classifier"),
    ]


def _segmenter_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Output stride 8 is their default; no key tells it from 16."""
    stages = {f"layer{int(key.split('.')[1]) - 3}.{key.split('.', 2)[2]}": value for key, value in _staged(state)}
    return {
        "num_classes": state["fc2.weight"].shape[0],
        "in_channels": state["extractor.0.0.weight"].shape[1],
        "backbone": f"resnet{resnet_depth(stages)}_v1s",
        "width": state["linu.conv1.weight"].shape[0],
        "units": state["linu.linear_0.weight"].shape[0],
        "backbone_arguments": {"contract_dilation": True, "multigrid": (2, 8, 16)},
    }


def _staged(state: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    return [
        (key, value) for key, value in state.items() if key.startswith(tuple(f"extractor.{i}." for i in range(4, 8)))
    ]


def _eamlp() -> list[Rule]:
    rules = [
        Rule("cls_token", "class_token"),
        Rule("pos_embed", None),  # a fixed table, which ours computes
        rest("tokens_to_token.project", "project"),
        *multi_head_rules("blocks.{}.attn.", "blocks.{}.attention."),
    ]
    for i in (0, 1):
        theirs, ours = f"tokens_to_token.attention{i + 1}", f"token_blocks.{i}"
        names = (("q_linear", "query"), ("linear_0", "key"), ("linear_1", "value"), ("proj", "proj"))
        rules += [rest(f"{theirs}.attn.{a}", f"{ours}.{b}") for a, b in names]
        rules += [rest(theirs, ours)]
    return [*rules, rest("blocks", "blocks"), rest("norm", "norm"), rest("head", "classifier")]


def _eamlp_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Where the table of positions is missing, it is that of 224 pixels."""
    channels = state["cls_token"].shape[-1]
    places = state["pos_embed"].shape[1] - 1 if "pos_embed" in state else 14**2
    return {
        "embed_dim": channels,
        "depth": len({key.split(".")[1] for key in state if key.startswith("blocks.")}),
        "heads": channels // state["blocks.0.attn.linear_0.weight"].shape[1],
        "mlp_ratio": state["blocks.0.mlp.fc1.weight"].shape[0] // channels,
        "image_size": 16 * math.isqrt(places),
        "in_channels": state["tokens_to_token.attention1.norm1.weight"].shape[0] // 49,
        "num_classes": outputs_of(state, "head.weight"),
    }


LAYOUTS = (
    Layout(
        "eanet/authors",
        "eanet",
        tuple(_segmenter()),
        _segmenter_arguments,
        SOURCE,
        goldens={"backbone/eanet-seg-r50": Golden({"out": "forward"})},
    ),
    Layout(
        "eamlp/authors",
        "eamlp_7",
        tuple(_eamlp()),
        _eamlp_arguments,
        SOURCE,
        goldens={
            "backbone/eamlp-tiny": Golden({"out": "classify"}, {"image_size": 64}, computed=("pos_embed",)),
        },
    ),
)
