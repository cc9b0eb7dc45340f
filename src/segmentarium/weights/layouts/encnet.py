"""EncNet as PyTorch-Encoding, the authors' code, and as mmsegmentation store it.

The heads' keys are those of stored references.  No whole file of the authors' was at hand: where the backbone
("pretrained.") and the auxiliary head ("auxlayer.") lie is read in their code, and stored of ShelfNet's, which is made of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from segmentarium.weights.layouts.parts import (
    conv_bn,
    mmseg_resnet_arguments,
    mmseg_resnet_segmenter,
    neighbours,
    rest,
)
from segmentarium.weights.layouts.resnet import resnet_name, resnet_rules
from segmentarium.weights.table import Layout, Rule


def mmseg_head(theirs: str = "decode_head.", ours: str = "decoder.") -> list[Rule]:
    return [
        *conv_bn(f"{theirs}bottleneck", f"{ours}reduce"),
        *conv_bn(f"{theirs}lateral_convs.{{}}", f"{ours}laterals.{{}}"),
        *conv_bn(f"{theirs}fusion", f"{ours}fuse"),
        *conv_bn(f"{theirs}enc_module.encoding_project", f"{ours}context.project"),
        rest(f"{theirs}enc_module.encoding.0", f"{ours}context.encoding"),
        rest(f"{theirs}enc_module.encoding.1", f"{ours}context.norm"),
        rest(f"{theirs}enc_module.fc.0", f"{ours}gate"),
        rest(f"{theirs}conv_seg", f"{ours}classifier"),
        rest(f"{theirs}se_layer", f"{ours}presence"),
    ]


def authors_head(theirs: str = "head.", ours: str = "decoder.") -> list[Rule]:
    return [
        *neighbours(f"{theirs}conv5", f"{ours}reduce"),
        *neighbours(f"{theirs}connect.{{}}", f"{ours}laterals.{{}}"),
        *neighbours(f"{theirs}fusion", f"{ours}fuse"),
        *neighbours(f"{theirs}encmodule.encoding", f"{ours}context.project"),
        rest(f"{theirs}encmodule.encoding.3", f"{ours}context.encoding"),
        rest(f"{theirs}encmodule.encoding.4", f"{ours}context.norm"),
        rest(f"{theirs}encmodule.fc.0", f"{ours}gate"),
        rest(f"{theirs}conv6.1", f"{ours}classifier"),
        rest(f"{theirs}encmodule.selayer", f"{ours}presence"),
    ]


def _authors() -> tuple[Rule, ...]:
    return (
        Rule("pretrained.fc.{}", None),
        *resnet_rules("pretrained.", "backbone.", stem="timm"),
        *authors_head(),
        *neighbours("auxlayer.conv5", "auxiliary.aux.convs.0"),
        rest("auxlayer.conv5.4", "auxiliary.aux.classifier"),
    )


def _authors_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        "num_classes": state["head.conv6.1.weight"].shape[0],
        "in_channels": state["pretrained.conv1.0.weight"].shape[1],
        "backbone": resnet_name(state, "pretrained.", deep_stem="pretrained.conv1.6.weight"),
        "backbone_arguments": {"contract_dilation": True},
        "width": state["head.conv5.0.weight"].shape[0],
        "codes": state["head.encmodule.encoding.3.codewords"].shape[0],
        "lateral": "head.fusion.0.weight" in state,
        "presence": "head.encmodule.selayer.weight" in state,
        "auxiliary": "auxlayer.conv5.4.weight" in state,
    }


def _mmseg_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """That the models for 769×769 pixels align corners no key tells."""
    return mmseg_resnet_arguments(state) | {
        "width": state["decode_head.bottleneck.conv.weight"].shape[0],
        "codes": state["decode_head.enc_module.encoding.0.codewords"].shape[0],
        "lateral": "decode_head.fusion.conv.weight" in state,
        "presence": "decode_head.se_layer.weight" in state,
    }


LAYOUTS = (
    Layout(
        "encnet/authors",
        "encnet",
        _authors(),
        _authors_arguments,
        "https://github.com/zhanghang1989/PyTorch-Encoding",
    ),
    Layout(
        "encnet/mmseg",
        "encnet_resnet50",
        mmseg_resnet_segmenter(mmseg_head()),
        _mmseg_arguments,
        "https://github.com/open-mmlab/mmsegmentation",
    ),
)
