"""FCN on a ResNet as torchvision and as mmsegmentation store it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from segmentarium.weights.layouts.parts import (
    mmseg_fcn_head,
    mmseg_on_other_backbones,
    mmseg_resnet_arguments,
    mmseg_resnet_segmenter,
    neighbours,
)
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
)
