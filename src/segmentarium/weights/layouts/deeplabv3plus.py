"""DeepLabV3+ as mmsegmentation and as segmentation-models-pytorch (smp) store it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from segmentarium.weights.layouts.mobilenet_v2 import torchvision_rules
from segmentarium.weights.layouts.parts import (
    MMSEG_OUTPUTS,
    conv_bn,
    mmseg_on_other_backbones,
    mmseg_resnet_arguments,
    mmseg_resnet_segmenter,
    neighbours,
)
from segmentarium.weights.layouts.resnet import resnet_name, resnet_rules
from segmentarium.weights.layouts.xception_aligned import aligned_depth, aligned_rules
from segmentarium.weights.table import Golden, Layout, Rule


def aspp_rules(theirs: str, ours: str) -> list[Rule]:
    """mmsegmentation's ASPPHead (its 1×1 branch and, in DeepLabV3, the plain dilated ones) and its separable form."""
    rules = conv_bn(f"{theirs}image_pool.1", f"{ours}image_pool")
    rules += conv_bn(f"{theirs}aspp_modules.{{}}", f"{ours}branches.{{}}")
    for half in ("depthwise", "pointwise"):
        rules += conv_bn(f"{theirs}aspp_modules.{{}}.{half}_conv", f"{ours}branches.{{}}.{half}")
    return rules + conv_bn(f"{theirs}bottleneck", f"{ours}project")


def mmseg_head(theirs: str = "decode_head.", ours: str = "decoder.") -> list[Rule]:
    rules = aspp_rules(theirs, f"{ours}aspp.") + conv_bn(f"{theirs}c1_bottleneck", f"{ours}low")
    for half in ("depthwise", "pointwise"):
        rules += conv_bn(f"{theirs}sep_bottleneck.{{}}.{half}_conv", f"{ours}after.{{}}.{half}")
    return [*rules, Rule(f"{theirs}conv_seg.{{}}", f"{ours}classifier.{{}}")]


def _mmseg_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return mmseg_resnet_arguments(state) | {
        "decoder_channels": state["decode_head.bottleneck.conv.weight"].shape[0],
        "low_channels": state["decode_head.c1_bottleneck.conv.weight"].shape[0],
    }


def _smp_separable(theirs: str, norm: str, ours: str) -> list[Rule]:
    return [
        Rule(f"{theirs}.0.weight", f"{ours}.depthwise.conv.weight"),
        Rule(f"{theirs}.1.weight", f"{ours}.pointwise.conv.weight"),
        Rule(f"{norm}.{{}}", f"{ours}.pointwise.norm.{{}}"),
    ]


def _smp_decoder() -> list[Rule]:
    aspp, ours = "decoder.aspp.0", "decoder.aspp"
    rules = neighbours(f"{aspp}.convs.0", f"{ours}.branches.0")
    for i in (1, 2, 3):
        rules += _smp_separable(f"{aspp}.convs.{i}.0", f"{aspp}.convs.{i}.1", f"{ours}.branches.{i}")
    rules += neighbours(f"{aspp}.convs.4", f"{ours}.image_pool", 1) + neighbours(f"{aspp}.project", f"{ours}.project")
    rules += _smp_separable("decoder.aspp.1", "decoder.aspp.2", "decoder.before.0")
    rules += neighbours("decoder.block1", "decoder.low")
    rules += _smp_separable("decoder.block2.0", "decoder.block2.1", "decoder.after.0")
    return [*rules, Rule("segmentation_head.0.{}", "decoder.classifier.{}")]


def _smp_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        "num_classes": state["segmentation_head.0.weight"].shape[0],
        "form": "smp",
        "decoder_channels": state["decoder.aspp.0.project.0.weight"].shape[0],
        "auxiliary": False,
    }


def _smp_resnet_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return _smp_arguments(state) | {
        "in_channels": state["encoder.conv1.weight"].shape[1],
        "backbone": resnet_name(state, "encoder."),
        "backbone_arguments": {"contract_dilation": False},
    }


def _smp_mobilenet_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return _smp_arguments(state) | {
        "in_channels": state["encoder.features.0.0.weight"].shape[1],
        "backbone": "mobilenet_v2",
        "backbone_arguments": {"contract_dilation": False, "final_conv": True},
    }


def _smp_xception_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return _smp_arguments(state) | {
        "in_channels": state["encoder.model.stem_0.conv.weight"].shape[1],
        "backbone": f"xception{aligned_depth(state, 'encoder.model.blocks_')}",
    }


SMP = "https://github.com/qubvel-org/segmentation_models.pytorch"
LAYOUTS = (
    Layout(
        "deeplabv3plus/mmseg",
        "deeplabv3plus_resnet50",
        mmseg_resnet_segmenter(mmseg_head()),
        _mmseg_arguments,
        "https://github.com/open-mmlab/mmsegmentation",
        goldens={"semantic/deeplabv3plus-r18": Golden(MMSEG_OUTPUTS)},
    ),
    *mmseg_on_other_backbones("deeplabv3plus", "deeplabv3plus_resnet50", mmseg_head(), _mmseg_arguments),
    Layout(
        "deeplabv3plus/smp_resnet",
        "deeplabv3plus",
        (*resnet_rules("encoder.", "backbone."), *_smp_decoder()),
        _smp_resnet_arguments,
        SMP,
    ),
    Layout(
        "deeplabv3plus/smp_mobilenet_v2",
        "deeplabv3plus",
        (*torchvision_rules("encoder.", "backbone."), *_smp_decoder()),
        _smp_mobilenet_arguments,
        SMP,
    ),
    Layout(
        "deeplabv3plus/smp_xception",
        "deeplabv3plus",
        (*aligned_rules("encoder.model.", "backbone.", "_"), *_smp_decoder()),
        _smp_xception_arguments,
        SMP,
    ),
)
