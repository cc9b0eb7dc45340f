"""ResNeXt as torchvision and timm store it (they agree), and what tells it from a ResNet where a larger network has one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from segmentarium.weights.layouts.resnet import FC, resnet_depth, resnet_rules
from segmentarium.weights.table import Layout, outputs_of


def groups_of(grouped: Tensor) -> tuple[int, int]:
    """Of the 3×3 convolution of the first block: its groups, and the channels of each; (1, …) of a ResNet."""
    outputs, inputs = grouped.shape[:2]
    return outputs // inputs, inputs


def trunk_name(name: str, grouped: Tensor) -> str:
    """Our name of what `resnet_name` calls so, which may be a ResNeXt."""
    groups, width = groups_of(grouped)
    return name if groups == 1 else f"{name.replace('resnet', 'resnext')}_{groups}x{width}d"


def _arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    groups, width = groups_of(state["layer1.0.conv2.weight"])
    if groups == 1:
        raise ValueError("its convolutions have one group: a ResNet")
    return {
        "depth": resnet_depth(state),
        "groups": groups,
        "group_width": width,
        "in_channels": state["conv1.weight"].shape[1],
        "num_classes": outputs_of(state, "fc.weight"),
    }


LAYOUTS = (
    Layout(
        "resnext/torchvision",
        "resnext50_32x4d",
        (*resnet_rules(), FC),
        _arguments,
        "https://github.com/pytorch/vision",
    ),
)
