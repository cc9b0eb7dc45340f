"""DANet as the authors' code and as mmsegmentation store it.

The heads' keys are those of stored references.  No whole file of the authors' was at hand: where the backbone lies
("pretrained.") is read in their code, which is PyTorch-Encoding's.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from segmentarium.weights.layouts.parts import (
    conv_bn,
    mmseg_resnet_arguments,
    mmseg_resnet_segmenter,
    neighbours,
    rest,
)
from segmentarium.weights.layouts.resnet import Stem, resnet_name, resnet_rules
from segmentarium.weights.table import Layout, Rule


def linear_rules(theirs: Mapping[str, str], ours: str) -> list[Rule]:
    """Queries, keys and values: 1×1 convolutions where ours are linear.  `theirs` -> name of ours, prefix ending in a dot."""
    return [Rule(f"{key}.{{}}", f"{ours}{name}.{{}}", theirs_ndim=4) for key, name in theirs.items()]


def attention_rules(theirs: str, ours: str) -> list[Rule]:
    """The authors' position attention, which CCNet's authors name alike; prefixes ending in a dot."""
    names = ("query", "key", "value")
    return [
        *linear_rules({f"{theirs}{name}_conv": name for name in names}, ours),
        Rule(f"{theirs}gamma", f"{ours}gamma"),
    ]


def mmseg_head(theirs: str = "decode_head.", ours: str = "decoder.") -> list[Rule]:
    rules = linear_rules(
        {f"{theirs}pam.{name}_project": name for name in ("query", "key", "value")}, f"{ours}position."
    )
    for short, name in (("pam", "position"), ("cam", "channel")):
        rules += [
            Rule(f"{theirs}{short}.gamma.scale", f"{ours}{name}.gamma", theirs_ndim=0),
            *conv_bn(f"{theirs}{short}_in_conv", f"{ours}{name}_in"),
            *conv_bn(f"{theirs}{short}_out_conv", f"{ours}{name}_out"),
            rest(f"{theirs}{short}_conv_seg", f"{ours}{name}_classifier"),
        ]
    return [*rules, rest(f"{theirs}conv_seg", f"{ours}classifier")]


def authors_head(theirs: str = "head.", ours: str = "decoder.") -> list[Rule]:
    return [
        *neighbours(f"{theirs}conv5a", f"{ours}position_in"),
        *attention_rules(f"{theirs}sa.", f"{ours}position."),
        *neighbours(f"{theirs}conv51", f"{ours}position_out"),
        rest(f"{theirs}conv6.1", f"{ours}position_classifier"),
        *neighbours(f"{theirs}conv5c", f"{ours}channel_in"),
        Rule(f"{theirs}sc.gamma", f"{ours}channel.gamma"),
        *neighbours(f"{theirs}conv52", f"{ours}channel_out"),
        rest(f"{theirs}conv7.1", f"{ours}channel_classifier"),
        rest(f"{theirs}conv8.1", f"{ours}classifier"),
    ]


def _mmseg_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """That the models for 769×769 pixels align corners no key tells."""
    return mmseg_resnet_arguments(state) | {
        "width": state["decode_head.pam_in_conv.conv.weight"].shape[0],
        "attention_channels": state["decode_head.pam.query_project.weight"].shape[0],
    }


def _authors_arguments(stem: Stem, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The multigrid is their rule for Cityscapes; no key tells it."""
    first = "conv1" if stem == "plain" else "conv1.0"
    return {
        "num_classes": state["head.conv8.1.weight"].shape[0],
        "in_channels": state[f"pretrained.{first}.weight"].shape[1],
        "backbone": resnet_name(state, "pretrained.", deep_stem="pretrained.conv1.6.weight"),
        "backbone_arguments": {"multigrid": (4, 8, 16), "contract_dilation": True},
        "width": state["head.conv5a.0.weight"].shape[0],
        "attention_channels": state["head.sa.query_conv.weight"].shape[0],
    }


def _authors(name: str, stem: Stem) -> Layout:
    return Layout(
        name,
        "danet",
        (Rule("pretrained.fc.{}", None), *resnet_rules("pretrained.", "backbone.", stem=stem), *authors_head()),
        partial(_authors_arguments, stem),
        "https://github.com/junfu1115/DANet",
    )


LAYOUTS = (
    _authors("danet/authors", "plain"),
    _authors("danet/authors_deep_stem", "timm"),
    Layout(
        "danet/mmseg",
        "danet_resnet50",
        mmseg_resnet_segmenter(mmseg_head()),
        _mmseg_arguments,
        "https://github.com/open-mmlab/mmsegmentation",
    ),
)
