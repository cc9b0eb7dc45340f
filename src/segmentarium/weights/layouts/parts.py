"""Lines that many key tables share: a convolution with its norm, and mmsegmentation's heads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from segmentarium.weights.layouts.mobilenet_v2 import MMSEG_DILATION, arguments_of, mmseg_rules
from segmentarium.weights.layouts.resnest import resnest_arguments, resnest_rules
from segmentarium.weights.layouts.resnet import resnet_name, resnet_rules
from segmentarium.weights.table import Layout, Rule, to_ours

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


def mmseg_on_other_backbones(
    name: str, model: str, head: list[Rule], arguments: Callable[[Mapping[str, Tensor]], dict[str, Any]]
) -> tuple[Layout, Layout]:
    """Of a network of mmsegmentation's that stands on ResNetV1c, the layouts on ResNeSt and on MobileNetV2, by its code.

    MobileNetV2's auxiliary head, which is as wide as ResNet's, is left out.
    """
    source = "https://github.com/open-mmlab/mmsegmentation"
    resnest = resnest_rules("backbone.", "backbone.", stem="mmseg")
    return (
        Layout(
            f"{name}/mmseg_resnest",
            model,
            (*resnest, *head, *mmseg_fcn_head("auxiliary_head.", "auxiliary.aux.")),
            arguments,
            source,
        ),
        Layout(
            f"{name}/mmseg_mobilenet_v2",
            model,
            (*mmseg_rules("backbone.", "backbone."), *head, Rule("auxiliary_head.{*}", None)),
            arguments,
            source,
        ),
    )


def mmseg_resnet_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """What every mmsegmentation model with a ResNetV1c, or on the other backbones above, says by its shapes; output stride 8
    is its models' rule."""
    return {
        "num_classes": state["decode_head.conv_seg.weight"].shape[0],
        "auxiliary": "auxiliary_head.conv_seg.weight" in state,
        **_mmseg_backbone(state),
    }


def _mmseg_backbone(state: Mapping[str, Tensor]) -> dict[str, Any]:
    if "backbone.conv1.conv.weight" in state:
        tensors, _, _ = to_ours(state, mmseg_rules("backbone."), {})
        read = arguments_of(tensors)
        channels = read.pop("in_channels")
        return {
            "backbone": "mobilenet_v2",
            "backbone_arguments": {**read, **MMSEG_DILATION},
            "in_channels": channels,
            "auxiliary": False,
        }
    channels = state["backbone.stem.0.weight"].shape[1]
    if "backbone.layer1.0.conv2.conv.weight" in state:
        depth = resnest_arguments(state, "backbone.", stem="mmseg")["depth"]
        return {"backbone": f"resnest{depth}", "backbone_arguments": {"form": "mmseg"}, "in_channels": channels}
    return {
        "backbone": resnet_name(state, "backbone.", deep_stem="backbone.stem.6.weight"),
        "in_channels": channels,
    }
