"""PSPNet as the authors' semseg, mmsegmentation and TorchSeg store it.

TorchSeg's table rests on its code.  `torchseg_trunk` and `torchseg_arguments` serve its PSANet, too.
"""

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
    rest,
)
from segmentarium.weights.layouts.resnet import block_rules, resnet_name, resnet_rules
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


def torchseg_trunk(layer: str) -> list[Rule]:
    """Its ResNet, what classifies behind its `layer`, and the auxiliary head."""
    return [
        *resnet_rules("backbone.", "backbone.", stem="timm"),
        *conv_bn(f"{layer}.conv6.0", "decoder.bottleneck"),
        rest(f"{layer}.conv6.2", "decoder.classifier"),
        *conv_bn("aux_layer.0", "auxiliary.aux.convs.0"),
        rest("aux_layer.2", "auxiliary.aux.classifier"),
    ]


def torchseg_arguments(state: Mapping[str, Tensor], layer: str) -> dict[str, Any]:
    auxiliary = state.get("aux_layer.0.conv.weight")
    return {
        "num_classes": state[f"{layer}.conv6.2.weight"].shape[0],
        "in_channels": state["backbone.conv1.0.weight"].shape[1],
        "backbone": resnet_name(state, "backbone.", deep_stem="backbone.conv1.6.weight"),
        "backbone_arguments": {"contract_dilation": True},
        "auxiliary": auxiliary is not None,
        "auxiliary_arguments": {} if auxiliary is None else {"decoder_channels": auxiliary.shape[0]},
        "decoder_channels": state[f"{layer}.conv6.0.conv.weight"].shape[0],
    }


def _torchseg_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    branch = state["psp_layer.ppm.0.psp/cbr.conv.weight"].shape[0]
    return torchseg_arguments(state, "psp_layer") | {"branch_channels": branch}


TORCHSEG = "https://github.com/ycszen/TorchSeg"
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
    Layout(
        "pspnet/torchseg",
        "pspnet",
        (*conv_bn("psp_layer.ppm.{}.psp/cbr", "decoder.pyramid.branches.{}"), *torchseg_trunk("psp_layer")),
        _torchseg_arguments,
        TORCHSEG,
    ),
    *mmseg_on_other_backbones("pspnet", "pspnet_resnet50", mmseg_head(), _mmseg_arguments),
)
