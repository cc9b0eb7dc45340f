"""GCNet as mmsegmentation stores it, and its blocks in the trunks of mmdetection's detectors, by that code and no file of its."""

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


def trunk_blocks(theirs: str = "backbone.", ours: str = "backbone.") -> list[Rule]:
    """Those in a ResNet of mmdetection's; prefixes of the trunk ending in a dot."""
    return [
        rule
        for layer in (1, 2, 3, 4)
        for rule in block_rules(f"{theirs}layer{layer}.{{}}.context_block.", f"{ours}inserted.layer{layer}_{{}}_conv3.")
    ]


def trunk_arguments(state: Mapping[str, Tensor], prefix: str = "backbone.") -> dict[str, Any]:
    """A model's `insertions`, where its trunk has such blocks."""
    stages = [i for i in (1, 2, 3, 4) if any(key.startswith(f"{prefix}layer{i}.0.context_block.") for key in state)]
    if not stages:
        return {}
    block = block_arguments(state, f"{prefix}layer{stages[0]}.0.context_block.")
    return {"insertions": [{"stage": i, "block": "gcnet", "at": "every", "after": "conv3", **block} for i in stages]}


LAYOUTS = (
    Layout(
        "gcnet/mmseg",
        "gcnet",
        mmseg_resnet_segmenter(mmseg_head()),
        _mmseg_arguments,
        "https://github.com/open-mmlab/mmsegmentation",
    ),
    *mmseg_on_other_backbones("gcnet", "gcnet", mmseg_head(), _mmseg_arguments),
)
