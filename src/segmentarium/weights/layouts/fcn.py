"""FCN as torchvision, mmsegmentation and PyTorch-Encoding (the authors of ResNeSt) store it.

PyTorch-Encoding's tables, on ResNet and on ResNeSt, rest on its code.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from segmentarium.weights.layouts.parts import (
    mmseg_fcn_head,
    mmseg_on_other_backbones,
    mmseg_resnet_arguments,
    mmseg_resnet_segmenter,
    neighbours,
    rest,
)
from segmentarium.weights.layouts.resnest import resnest_arguments, resnest_rules
from segmentarium.weights.layouts.resnet import resnet_name, resnet_rules
from segmentarium.weights.table import Layout, Rule


def _torchvision_head(theirs: str, ours: str) -> list[Rule]:
    return [*neighbours(theirs, f"{ours}.convs.0"), Rule(f"{theirs}.4.{{}}", f"{ours}.classifier.{{}}")]


def _torchvision_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        "num_classes": state["classifier.4.weight"].shape[0],
        "in_channels": state["backbone.conv1.weight"].shape[1],
        "backbone": resnet_name(state, "backbone."),
        "auxiliary": "aux_classifier.4.weight" in state,
    }


def _mmseg_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return mmseg_resnet_arguments(state) | {
        "decoder_channels": state["decode_head.convs.0.conv.weight"].shape[0],
        "convs": len([key for key in state if key.startswith("decode_head.convs.") and key.endswith("conv.weight")]),
        "concatenate": "decode_head.conv_cat.conv.weight" in state,
    }


def encoding_auxiliary() -> list[Rule]:
    return [
        *neighbours("auxlayer.conv5", "auxiliary.aux.convs.0"),
        rest("auxlayer.conv5.4", "auxiliary.aux.classifier"),
    ]


ENCODING_HEAD = [*neighbours("head.conv5", "decoder.convs.0"), rest("head.conv5.4", "decoder.classifier")]


def _encoding_arguments(state: Mapping[str, Tensor], resnest: bool) -> dict[str, Any]:
    if resnest:
        own = resnest_arguments(state, "pretrained.")
        backbone, channels = f"resnest{own.pop('depth')}", own.pop("in_channels")
    else:
        channels = state["pretrained.conv1.0.weight"].shape[1]
        backbone = resnet_name(state, "pretrained.", deep_stem="pretrained.conv1.6.weight")
        own = {"contract_dilation": True}
    return {
        "num_classes": state["head.conv5.4.weight"].shape[0],
        "in_channels": channels,
        "backbone": backbone,
        "backbone_arguments": own,
        "decoder_channels": state["head.conv5.0.weight"].shape[0],
        "align_corners": True,
        "auxiliary": "auxlayer.conv5.4.weight" in state,
    }


ENCODING = "https://github.com/zhanghang1989/PyTorch-Encoding"
LAYOUTS = (
    Layout(
        "fcn/torchvision",
        "fcn",
        (
            *resnet_rules("backbone.", "backbone."),
            *_torchvision_head("classifier", "decoder"),
            *_torchvision_head("aux_classifier", "auxiliary.aux"),
        ),
        _torchvision_arguments,
        "https://github.com/pytorch/vision",
    ),
    Layout(
        "fcn/mmseg",
        "fcn_resnet50",
        mmseg_resnet_segmenter(mmseg_fcn_head("decode_head.", "decoder.")),
        _mmseg_arguments,
        "https://github.com/open-mmlab/mmsegmentation",
    ),
    *mmseg_on_other_backbones("fcn", "fcn_resnet50", mmseg_fcn_head("decode_head.", "decoder."), _mmseg_arguments),
    Layout(
        "fcn/encoding",
        "fcn",
        (
            Rule("pretrained.fc.{}", None),
            *resnet_rules("pretrained.", "backbone.", stem="timm"),
            *ENCODING_HEAD,
            *encoding_auxiliary(),
        ),
        partial(_encoding_arguments, resnest=False),
        ENCODING,
    ),
    Layout(
        "fcn/encoding_resnest",
        "fcn",
        (*resnest_rules("pretrained.", "backbone."), *ENCODING_HEAD, *encoding_auxiliary()),
        partial(_encoding_arguments, resnest=True),
        ENCODING,
    ),
)
