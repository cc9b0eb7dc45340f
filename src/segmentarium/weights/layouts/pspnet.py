"""PSPNet as the authors' semseg and as mmsegmentation store it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from segmentarium.weights.layouts.parts import (
    MMSEG_OUTPUTS,
    conv_bn,
    mmseg_on_other_backbones,
    mmseg_resnet_arguments,
    mmseg_resnet_segmenter,
    neighbours,
)
from segmentarium.weights.layouts.resnet import block_rules, resnet_name
from segmentarium.weights.table import Golden, Layout, Rule


def mmseg_head(theirs: str = "decode_head.", ours: str = "decoder.") -> list[Rule]:
    return [
        *conv_bn(f"{theirs}psp_modules.{{}}.1", f"{ours}pyramid.branches.{{}}"),
        *conv_bn(f"{theirs}bottleneck", f"{ours}bottleneck"),
        Rule(f"{theirs}conv_seg.{{}}", f"{ours}classifier.{{}}"),
    ]


def _semseg() -> list[Rule]:
    rules = block_rules("", "backbone.")
    for i in range(3):
        rules += neighbours("layer0", f"backbone.stem.{i}", 3 * i)
    rules += neighbours("ppm.features.{}", "decoder.pyramid.branches.{}", 1)
    rules += [*neighbours("cls", "decoder.bottleneck"), Rule("cls.4.{}", "decoder.classifier.{}")]
    return rules + neighbours("aux", "auxiliary.aux.convs.0") + [Rule("aux.4.{}", "auxiliary.aux.classifier.{}")]


def _semseg_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        "num_classes": state["cls.4.weight"].shape[0],
        "in_channels": state["layer0.0.weight"].shape[1],
        "backbone": resnet_name(state, deep_stem="layer0.6.weight"),
        "auxiliary": "aux.4.weight" in state,
    }


def _mmseg_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return mmseg_resnet_arguments(state) | {
        "decoder_channels": state["decode_head.bottleneck.conv.weight"].shape[0],
        "branch_channels": state["decode_head.psp_modules.0.1.conv.weight"].shape[0],
    }


LAYOUTS = (
    Layout(
        "pspnet/semseg",
        "pspnet",
        tuple(_semseg()),
        _semseg_arguments,
        "https://github.com/hszhao/semseg",
        goldens={"semantic/pspnet-semseg-r50": Golden({"out": "forward"})},
    ),
    Layout(
        "pspnet/mmseg",
        "pspnet_resnet50",
        mmseg_resnet_segmenter(mmseg_head()),
        _mmseg_arguments,
        "https://github.com/open-mmlab/mmsegmentation",
        goldens={"semantic/pspnet-r18": Golden(MMSEG_OUTPUTS)},
    ),
    *mmseg_on_other_backbones("pspnet", "pspnet_resnet50", mmseg_head(), _mmseg_arguments),
)
