"""GCNet as mmsegmentation stores it, and a ResNet with its blocks as it lies in mmdetection's detectors.

The detector's table rests on mmdetection's code and no file of its: of a detector only the trunk is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from segmentarium.weights.layouts.parts import (
    conv_bn,
    mmseg_on_other_backbones,
    mmseg_resnet_arguments,
    mmseg_resnet_segmenter,
    rest,
)
from segmentarium.weights.layouts.resnet import resnet_depth, resnet_rules
from segmentarium.weights.table import Layout, Rule


def block_rules(theirs: str, ours: str) -> list[Rule]:
    """The block, prefixes ending in a dot: their layer norm has factors (C, 1, 1)."""
    rules = [rest(f"{theirs}conv_mask", f"{ours}attention")]
    for a, b in (("channel_add_conv", "add"), ("channel_mul_conv", "multiply")):
        rules += [
            Rule(f"{theirs}{a}.1.{{}}", f"{ours}{b}.1.{{}}", theirs_ndim=3),
            Rule(f"{theirs}{a}.{{}}.{{}}", f"{ours}{b}.{{}}.{{}}"),
        ]
    return rules


def mmseg_head(theirs: str = "decode_head.", ours: str = "decoder.") -> list[Rule]:
    return [
        *conv_bn(f"{theirs}convs.0", f"{ours}convs.0"),
        *block_rules(f"{theirs}gc_block.", f"{ours}convs.1."),
        *conv_bn(f"{theirs}convs.1", f"{ours}convs.2"),
        *conv_bn(f"{theirs}conv_cat", f"{ours}concatenate"),
        rest(f"{theirs}conv_seg", f"{ours}classifier"),
    ]


def block_arguments(state: Mapping[str, Tensor], prefix: str) -> dict[str, Any]:
    """What the block under a prefix says by its keys."""
    kinds = {"multiply": "channel_mul_conv", "add": "channel_add_conv"}
    fusion = tuple(kind for kind, key in kinds.items() if f"{prefix}{key}.0.weight" in state)
    hidden, channels = state[f"{prefix}{kinds[fusion[0]]}.0.weight"].shape[:2]
    return {
        "ratio": hidden / channels,
        "pooling": "attention" if f"{prefix}conv_mask.weight" in state else "average",
        "fusion": fusion,
    }


def _mmseg_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        **mmseg_resnet_arguments(state),
        **block_arguments(state, "decode_head.gc_block."),
        "decoder_channels": state["decode_head.convs.0.conv.weight"].shape[0],
    }


def _detector() -> list[Rule]:
    rules = resnet_rules("backbone.")
    for layer in (1, 2, 3, 4):
        rules += block_rules(f"backbone.layer{layer}.{{}}.context_block.", f"inserted.layer{layer}_{{}}_conv3.")
    return [*rules, *(Rule(f"{part}.{{*}}", None) for part in ("neck", "rpn_head", "roi_head"))]


def _detector_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    stages = [i for i in (1, 2, 3, 4) if f"backbone.layer{i}.0.context_block.conv_mask.weight" in state]
    block = block_arguments(state, f"backbone.layer{stages[0]}.0.context_block.")
    return {
        "depth": resnet_depth(state, "backbone."),
        "in_channels": state["backbone.conv1.weight"].shape[1],
        "insertions": [{"stage": i, "block": "gcnet", "at": "every", "after": "conv3", **block} for i in stages],
        "num_classes": None,
    }


LAYOUTS = (
    Layout(
        "gcnet/mmseg",
        "gcnet",
        mmseg_resnet_segmenter(mmseg_head()),
        _mmseg_arguments,
        "https://github.com/open-mmlab/mmsegmentation",
    ),
    *mmseg_on_other_backbones("gcnet", "gcnet", mmseg_head(), _mmseg_arguments),
    Layout(
        "gcnet/mmdet", "resnet50", tuple(_detector()), _detector_arguments, "https://github.com/open-mmlab/mmdetection"
    ),
)
