"""ANN as mmsegmentation and as its authors store it.

The authors' trunk is openseg's ResNet with a wide deep stem, by that code; no file of theirs was at hand.  Its pooling rounds up
and ours down, which is the same on pictures of 8 n + 1 pixels.  Their auxiliary head, twice as wide as ours, is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from segmentarium.weights.layouts.mobilenet_v2 import unit
from segmentarium.weights.layouts.parts import (
    conv_bn,
    mmseg_on_other_backbones,
    mmseg_resnet_arguments,
    mmseg_resnet_segmenter,
    rest,
)
from segmentarium.weights.layouts.resnet import block_rules, resnet_depth
from segmentarium.weights.table import Layout, Rule


def _halves(theirs: str, ours: str) -> list[Rule]:
    """Their 1×1 convolution over answer and feature, which ours has in two; its bias is the feature's."""
    parts = (f"{ours}fuse_answer.weight", f"{ours}fuse_feature.weight")
    return [Rule(f"{theirs}.weight", parts, dim=1), Rule(f"{theirs}.bias", f"{ours}fuse_feature.bias")]


def mmseg_head(theirs: str = "decode_head.", ours: str = "decoder.") -> list[Rule]:
    rules = []
    for block in ("fusion", "context"):
        stage, mine = f"{theirs}{block}.stages.0", f"{ours}{block}."
        rules += [rest(f"{stage}.value_project", f"{mine}value"), rest(f"{stage}.out_project", f"{mine}project")]
        rules += _halves(f"{theirs}{block}.bottleneck.conv", mine)
        rules += [rest(f"{theirs}{block}.bottleneck.bn", f"{mine}norm")]
    fusion, context = f"{theirs}fusion.stages.0", f"{theirs}context.stages.0"
    for part, kind in (("conv", "conv"), ("bn", "norm")):
        both = (f"{context}.key_project.{part}.{{*}}", f"{context}.query_project.{part}.{{*}}")
        rules += [
            rest(f"{fusion}.key_project.{part}", f"{ours}fusion.key.{kind}"),
            rest(f"{fusion}.query_project.{part}", f"{ours}fusion.query.{kind}"),
            Rule(both, f"{ours}context.key.{kind}.{{*}}", tied=True),
        ]
    return [
        *rules,
        *conv_bn(f"{theirs}bottleneck", f"{ours}reduce"),
        rest(f"{theirs}conv_seg", f"{ours}classifier"),
    ]


def authors_head(ours: str = "decoder.") -> list[Rule]:
    """Norms stand in a row of their own, with their ReLU, where they have one."""
    blocks = (("fusion", "fusion.", "1"), ("context.2", "context.", "1.0"))
    rules = []
    for block, mine, norm in blocks:
        rules += [
            rest(f"{block}.stages.0.f_value", f"{ours}{mine}value"),
            rest(f"{block}.stages.0.W", f"{ours}{mine}project"),
            *_halves(f"{block}.conv_bn_dropout.0", f"{ours}{mine}"),
            rest(f"{block}.conv_bn_dropout.{norm}", f"{ours}{mine}norm"),
        ]
    for part, kind in (("0", "conv"), ("1.0", "norm")):
        both = (f"context.2.stages.0.f_key.{part}.{{*}}", f"context.2.stages.0.f_query.{part}.{{*}}")
        rules += [
            rest(f"fusion.stages.0.f_key.{part}", f"{ours}fusion.key.{kind}"),
            rest(f"fusion.stages.0.f_query.{part}", f"{ours}fusion.query.{kind}"),
            Rule(both, f"{ours}context.key.{kind}.{{*}}", tied=True),
        ]
    return [
        *rules,
        rest("context.0", f"{ours}reduce.conv"),
        rest("context.1.0", f"{ours}reduce.norm"),
        rest("cls", f"{ours}classifier"),
    ]


def _authors() -> list[Rule]:
    rules = block_rules("backbone.", "backbone.")
    for i in (1, 2, 3):
        rules += unit(f"backbone.resinit.conv{i}", f"backbone.resinit.bn{i}", f"backbone.stem.{i - 1}")
    return [*rules, *authors_head(), Rule("dsn.{*}", None)]


def _mmseg_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    width, keys = state["decode_head.context.stages.0.out_project.weight"].shape[:2]
    return {**mmseg_resnet_arguments(state), "decoder_channels": width, "key_channels": keys}


def _authors_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    width, keys = state["context.2.stages.0.W.weight"].shape[:2]
    return {
        "num_classes": state["cls.weight"].shape[0],
        "in_channels": state["backbone.resinit.conv1.weight"].shape[1],
        "backbone": f"resnet{resnet_depth(state, 'backbone.')}_v1s",
        "backbone_arguments": {"contract_dilation": True},
        "decoder_channels": width,
        "key_channels": keys,
        "auxiliary": False,
    }


LAYOUTS = (
    Layout(
        "ann/mmseg",
        "ann",
        mmseg_resnet_segmenter(mmseg_head()),
        _mmseg_arguments,
        "https://github.com/open-mmlab/mmsegmentation",
    ),
    *mmseg_on_other_backbones("ann", "ann", mmseg_head(), _mmseg_arguments),
    Layout("ann/authors", "ann_authors", tuple(_authors()), _authors_arguments, "https://github.com/MendelXu/ANN"),
)
