"""PointRend on semantic FPN as mmsegmentation stores it, by the stored key lists of its neck and both heads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from segmentarium.weights.layouts.fpn import mmseg_head, mmseg_neck
from segmentarium.weights.layouts.parts import rest
from segmentarium.weights.layouts.resnet import resnet_name, resnet_rules
from segmentarium.weights.table import Layout, Rule


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
            *mmseg_neck(),
            *mmseg_head("decode_head.0."),
            *point_rules(),
        ),
        _arguments,
        "https://github.com/open-mmlab/mmsegmentation",
    ),
)
