"""Lines that many key tables share: a convolution with its norm, and mmsegmentation's heads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from segmentarium.weights.layouts.resnet import resnet_name, resnet_rules
from segmentarium.weights.table import Rule

# a stored network of theirs with an auxiliary head: what of ours it is compared with
MMSEG_OUTPUTS = {"out/logits": "logits", "out/aux": "aux", "out/upsampled": "forward"}


def rest(theirs: str, ours: str) -> Rule:
    """Everything under a name."""
    return Rule(f"{theirs}.{{*}}", f"{ours}.{{*}}")


def conv_bn(theirs: str, ours: str) -> list[Rule]:
    """mmcv's ConvModule: .conv and .bn."""
    return [Rule(f"{theirs}.conv.{{}}", f"{ours}.conv.{{}}"), Rule(f"{theirs}.bn.{{}}", f"{ours}.norm.{{}}")]


def neighbours(theirs: str, ours: str, first: int = 0) -> list[Rule]:
    """A convolution and its norm as neighbours in a Sequential."""
    return [
        Rule(f"{theirs}.{first}.{{}}", f"{ours}.conv.{{}}"),
        Rule(f"{theirs}.{first + 1}.{{}}", f"{ours}.norm.{{}}"),
    ]


def mmseg_fcn_head(theirs: str, ours: str) -> list[Rule]:
    return [
        *conv_bn(f"{theirs}convs.{{}}", f"{ours}convs.{{}}"),
        *conv_bn(f"{theirs}conv_cat", f"{ours}concatenate"),
        Rule(f"{theirs}conv_seg.{{}}", f"{ours}classifier.{{}}"),
    ]


def mmseg_resnet_segmenter(head: list[Rule]) -> tuple[Rule, ...]:
    """ResNetV1c under "backbone.", the head's lines, and an auxiliary FCN head."""
    return (
        *resnet_rules("backbone.", "backbone.", stem="mmseg"),
        *head,
        *mmseg_fcn_head("auxiliary_head.", "auxiliary.aux."),
    )


def mmseg_resnet_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """What every mmsegmentation model with a ResNetV1c says by its shapes; output stride 8 is its models' rule."""
    return {
        "num_classes": state["decode_head.conv_seg.weight"].shape[0],
        "in_channels": state["backbone.stem.0.weight"].shape[1],
        "backbone": resnet_name(state, "backbone.", deep_stem="backbone.stem.6.weight"),
        "auxiliary": "auxiliary_head.conv_seg.weight" in state,
    }
