"""PointRend on semantic FPN as mmsegmentation stores it, by the stored key lists of its neck and both heads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from segmentarium.weights.layouts.parts import conv_bn, rest
from segmentarium.weights.layouts.resnet import resnet_name, resnet_rules
from segmentarium.weights.table import Layout, Rule


def neck_rules(theirs: str = "neck.", ours: str = "decoder.pyramid.") -> list[Rule]:
    """mmsegmentation's FPN, prefixes ending in a dot."""
    return [
        rest(f"{theirs}lateral_convs.{{}}.conv", f"{ours}laterals.{{}}"),
        rest(f"{theirs}fpn_convs.{{}}.conv", f"{ours}outputs.{{}}"),
    ]


def coarse_rules(theirs: str = "decode_head.0.", ours: str = "decoder.") -> list[Rule]:
    """mmsegmentation's FPNHead, whose upsampling stands between its convolutions and is counted with them."""
    rules = [rest(f"{theirs}conv_seg", f"{ours}classifier")]
    for i in range(3):
        rules += conv_bn(f"{theirs}scale_heads.{{}}.{2 * i}", f"{ours}merge.levels.{{}}.{i}")
    return rules


def point_rules(theirs: str = "decode_head.1.", ours: str = "decoder.head.") -> list[Rule]:
    """mmsegmentation's PointHead."""
    return [rest(f"{theirs}fcs.{{}}.conv", f"{ours}layers.{{}}"), rest(f"{theirs}fc_seg", f"{ours}classifier")]


def _arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        "num_classes": state["decode_head.0.conv_seg.weight"].shape[0],
        "in_channels": state["backbone.stem.0.weight"].shape[1],
        "backbone": resnet_name(state, "backbone.", deep_stem="backbone.stem.6.weight"),
        "pyramid_channels": state["neck.lateral_convs.0.conv.weight"].shape[0],
        "width": state["decode_head.0.conv_seg.weight"].shape[1],
        "point_width": state["decode_head.1.fcs.0.conv.weight"].shape[0],
        "point_layers": len({key.split(".")[3] for key in state if key.startswith("decode_head.1.fcs.")}),
    }


LAYOUTS = (
    Layout(
        "pointrend/mmseg",
        "pointrend_resnet50",
        (
            *resnet_rules("backbone.", "backbone.", stem="mmseg"),
            *neck_rules(),
            *coarse_rules(),
            *point_rules(),
        ),
        _arguments,
        "https://github.com/open-mmlab/mmsegmentation",
    ),
)
