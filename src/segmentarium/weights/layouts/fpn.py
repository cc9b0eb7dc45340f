"""Semantic FPN as mmsegmentation stores it, and the pyramid alone as torchvision does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from segmentarium.weights.layouts.parts import conv_bn, rest
from segmentarium.weights.layouts.resnet import resnet_name, resnet_rules
from segmentarium.weights.table import Layout, Rule


def mmseg_neck(theirs: str = "neck.", ours: str = "decoder.pyramid.") -> list[Rule]:
    """Prefixes ending in a dot."""
    return [
        rest(f"{theirs}lateral_convs.{{}}.conv", f"{ours}laterals.{{}}"),
        rest(f"{theirs}fpn_convs.{{}}.conv", f"{ours}outputs.{{}}"),
    ]


def torchvision_neck(theirs: str = "", ours: str = "") -> list[Rule]:
    """Prefixes ending in a dot."""
    return [
        rest(f"{theirs}inner_blocks.{{}}.0", f"{ours}laterals.{{}}"),
        rest(f"{theirs}layer_blocks.{{}}.0", f"{ours}outputs.{{}}"),
    ]


def mmseg_head(theirs: str = "decode_head.", ours: str = "decoder.") -> list[Rule]:
    """Prefixes ending in a dot; between two of their convolutions stands an upsampling."""
    rules = [Rule(f"{theirs}conv_seg.{{}}", f"{ours}classifier.{{}}")]
    for i in range(4):
        rules += conv_bn(f"{theirs}scale_heads.{{}}.{2 * i}", f"{ours}fuse.levels.{{}}.{i}")
    return rules


def _mmseg_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        "num_classes": state["decode_head.conv_seg.weight"].shape[0],
        "in_channels": state["backbone.stem.0.weight"].shape[1],
        "backbone": resnet_name(state, "backbone.", deep_stem="backbone.stem.6.weight"),
        "decoder_channels": state["decode_head.conv_seg.weight"].shape[1],
        "pyramid_channels": state["neck.fpn_convs.0.conv.weight"].shape[0],
        "auxiliary": False,
    }


LAYOUTS = (
    Layout(
        "fpn/mmseg",
        "fpn_resnet50",
        (*resnet_rules("backbone.", "backbone.", stem="mmseg"), *mmseg_neck(), *mmseg_head()),
        _mmseg_arguments,
        "https://github.com/open-mmlab/mmsegmentation",
    ),
)
