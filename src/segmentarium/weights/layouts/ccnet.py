"""CCNet as the authors' code and as mmsegmentation store it.

The heads' keys are those of stored references.  No whole file of the authors' was at hand: how the backbone and the auxiliary
head are called is read in their code.  Their in-place norm multiplies by |weight| + 1e-5, ours by the weight: a file with
negative weights would have to be changed before it is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from segmentarium.preprocessing import Preprocessing
from segmentarium.weights.layouts.danet import attention_rules
from segmentarium.weights.layouts.parts import (
    conv_bn,
    mmseg_resnet_arguments,
    mmseg_resnet_segmenter,
    neighbours,
    rest,
)
from segmentarium.weights.layouts.resnet import block_rules, resnet_depth
from segmentarium.weights.table import Layout, Rule

# theirs takes blue, green, red of 0 to 255 and subtracts the mean alone
PREPROCESSING = Preprocessing((122.67891434 / 255, 116.66876762 / 255, 104.00698793 / 255), (1 / 255,) * 3)


def mmseg_head(theirs: str = "decode_head.", ours: str = "decoder.") -> list[Rule]:
    return [
        *conv_bn(f"{theirs}convs.0", f"{ours}before"),
        Rule(f"{theirs}cca.gamma.scale", f"{ours}attention.gamma", theirs_ndim=0),
        *attention_rules(f"{theirs}cca.", f"{ours}attention."),
        *conv_bn(f"{theirs}convs.1", f"{ours}after"),
        *conv_bn(f"{theirs}conv_cat", f"{ours}bottleneck"),
        rest(f"{theirs}conv_seg", f"{ours}classifier"),
    ]


def authors_head(theirs: str = "head.", ours: str = "decoder.") -> list[Rule]:
    return [
        *neighbours(f"{theirs}conva", f"{ours}before"),
        *attention_rules(f"{theirs}cca.", f"{ours}attention."),
        *neighbours(f"{theirs}convb", f"{ours}after"),
        rest(f"{theirs}bottleneck.3", f"{ours}classifier"),
        *neighbours(f"{theirs}bottleneck", f"{ours}bottleneck"),
    ]


def _authors() -> list[Rule]:
    rules = []
    for i in range(3):
        rules += [Rule(f"conv{i + 1}.weight", f"backbone.stem.{i}.conv.weight", bgr=None if i else 1)]
        rules += [rest(f"bn{i + 1}", f"backbone.stem.{i}.norm")]
    # the auxiliary head has a form that ours has not: twice the channels, a bias in front of the norm
    return [*rules, *block_rules("", "backbone."), *authors_head(), Rule("dsn.{*}", None)]


def _authors_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """No key tells how often the attention is applied: `recurrence` is 2 unless it is given."""
    return {
        "num_classes": state["head.bottleneck.3.weight"].shape[0],
        "in_channels": state["conv1.weight"].shape[1],
        "backbone": f"resnet{resnet_depth(state)}_v1s",
        "width": state["head.conva.0.weight"].shape[0],
        "decoder_channels": state["head.bottleneck.0.weight"].shape[0],
        "attention_channels": state["head.cca.query_conv.weight"].shape[0],
        "auxiliary": False,
    }


def _mmseg_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """That the models for 769×769 pixels align corners no key tells."""
    return mmseg_resnet_arguments(state) | {
        "width": state["decode_head.convs.0.conv.weight"].shape[0],
        "decoder_channels": state["decode_head.conv_cat.conv.weight"].shape[0],
        "attention_channels": state["decode_head.cca.query_conv.weight"].shape[0],
    }


LAYOUTS = (
    Layout(
        "ccnet/authors",
        "ccnet",
        tuple(_authors()),
        _authors_arguments,
        "https://github.com/speedinghzl/CCNet",
        facts=lambda state: {"preprocessing": PREPROCESSING.as_dict()},
    ),
    Layout(
        "ccnet/mmseg",
        "ccnet_resnet50",
        mmseg_resnet_segmenter(mmseg_head()),
        _mmseg_arguments,
        "https://github.com/open-mmlab/mmsegmentation",
    ),
)
