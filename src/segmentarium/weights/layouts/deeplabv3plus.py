"""DeepLabV3+ as mmsegmentation, segmentation-models-pytorch (smp), VainF and detectron2 store it.

The tables of the last two rest on their code; what no key tells of them is as in the tables of DeepLabV3.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from segmentarium.weights.layouts.mobilenet_v2 import arguments_of, torchvision_rules, vainf_rules
from segmentarium.weights.layouts.parts import (
    MMSEG_OUTPUTS,
    conv_bn,
    mmseg_on_other_backbones,
    mmseg_resnet_arguments,
    mmseg_resnet_segmenter,
    neighbours,
    rest,
)
from segmentarium.weights.layouts.resnet import (
    detectron2_conv,
    detectron2_depth,
    detectron2_rules,
    resnet_name,
    resnet_rules,
)
from segmentarium.weights.layouts.xception_aligned import aligned_depth, aligned_rules
from segmentarium.weights.table import Golden, Layout, Rule, to_ours


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


def torchvision_aspp(theirs: str, ours: str = "decoder.aspp") -> list[Rule]:
    """torchvision's and smp's, which agree."""
    rules = [rule for i in range(4) for rule in neighbours(f"{theirs}.convs.{i}", f"{ours}.branches.{i}")]
    return (
        rules
        + neighbours(f"{theirs}.convs.4", f"{ours}.image_pool", 1)
        + neighbours(f"{theirs}.project", f"{ours}.project")
    )


VAINF_TRUNK = vainf_rules()


def vainf_mobilenet(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Its MobileNetV2, as arguments of a network on it."""
    tensors, _, _ = to_ours(state, VAINF_TRUNK, {})
    own = arguments_of({key.removeprefix("backbone."): value for key, value in tensors.items()})
    channels = own.pop("in_channels")
    return {
        "in_channels": channels,
        "backbone": "mobilenet_v2",
        "backbone_arguments": {**own, "pad_first": True},
        "output_stride": 16,
        "rates": (6, 12, 18),
        "auxiliary": False,
    }


def detectron2_aspp(theirs: str) -> list[Rule]:
    rules = [rule for i in range(4) for rule in detectron2_conv(f"{theirs}.convs.{i}", f"decoder.aspp.branches.{i}")]
    pool = rest(f"{theirs}.convs.4.1", "decoder.aspp.image_pool.conv")
    return [*rules, pool, *detectron2_conv(f"{theirs}.project", "decoder.aspp.project")]


def detectron2_arguments(state: Mapping[str, Tensor], aspp: str) -> dict[str, Any]:
    """aspp: where the pyramid lies"""
    first, last = state["backbone.stem.conv1.weight"], state["backbone.stem.conv3.weight"]
    deep = (first.shape[0], last.shape[1], last.shape[0])
    return {
        "num_classes": state["sem_seg_head.predictor.weight"].shape[0],
        "in_channels": first.shape[1],
        "backbone": f"resnet{detectron2_depth(state, 'backbone.')}_v1s",
        "backbone_arguments": {"deep_stem": deep, "contract_dilation": False, "multigrid": (2, 4, 8)},
        "output_stride": 16,
        "form": "detectron2",
        "decoder_channels": state[f"{aspp}.project.weight"].shape[0],
        "pool_window": (32, 64),
        "auxiliary": False,
    }


def _vainf_head() -> list[Rule]:
    return [
        *torchvision_aspp("classifier.aspp"),
        *neighbours("classifier.project", "decoder.low"),
        *neighbours("classifier.classifier", "decoder.after.0"),
        rest("classifier.classifier.3", "decoder.classifier"),
    ]


def _vainf_arguments(state: Mapping[str, Tensor], mobilenet: bool) -> dict[str, Any]:
    if mobilenet:
        found = vainf_mobilenet(state)
    else:
        found = {
            "in_channels": state["backbone.conv1.weight"].shape[1],
            "backbone": resnet_name(state, "backbone."),
            "output_stride": 16,
            "auxiliary": False,
        }
    return found | {"num_classes": state["classifier.classifier.3.weight"].shape[0], "form": "vainf"}


def _detectron2() -> list[Rule]:
    head = "sem_seg_head.decoder"
    return [
        *detectron2_rules("backbone.", "backbone."),
        *detectron2_aspp(f"{head}.res5.project_conv"),
        *detectron2_conv(f"{head}.res2.project_conv", "decoder.low"),
        *detectron2_conv(f"{head}.res2.fuse_conv.{{}}", "decoder.after.{}"),
        rest("sem_seg_head.predictor", "decoder.classifier"),
    ]


def _detectron2_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    low = state["sem_seg_head.decoder.res2.project_conv.weight"].shape[0]
    return detectron2_arguments(state, "sem_seg_head.decoder.res5.project_conv") | {"low_channels": low}


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


DETECTRON2 = "https://github.com/facebookresearch/detectron2"
VAINF = "https://github.com/VainF/DeepLabV3Plus-Pytorch"
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
    Layout(
        "deeplabv3plus/vainf",
        "deeplabv3plus",
        (*resnet_rules("backbone.", "backbone."), *_vainf_head()),
        partial(_vainf_arguments, mobilenet=False),
        VAINF,
    ),
    Layout(
        "deeplabv3plus/vainf_mobilenet_v2",
        "deeplabv3plus",
        (*VAINF_TRUNK, *_vainf_head()),
        partial(_vainf_arguments, mobilenet=True),
        VAINF,
    ),
    Layout("deeplabv3plus/detectron2", "deeplabv3plus", tuple(_detectron2()), _detectron2_arguments, DETECTRON2),
)
