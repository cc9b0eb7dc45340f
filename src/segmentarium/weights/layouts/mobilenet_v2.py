"""MobileNetV2 as torchvision and as timm store it; the tables serve larger networks and its kin too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from segmentarium.weights.table import Layout, Rule

BLOCKS = (1, 2, 3, 4, 3, 3, 1)  # of each stage


def _unit(conv: str, norm: str, ours: str) -> list[Rule]:
    return [Rule(f"{conv}.weight", f"{ours}.conv.weight"), Rule(f"{norm}.{{}}", f"{ours}.norm.{{}}")]


def torchvision_rules(theirs: str = "", ours: str = "") -> list[Rule]:
    """The table without the classifier, prefixes ending in a dot.  torchvision numbers all blocks in one row."""
    rules = _unit(f"{theirs}features.0.0", f"{theirs}features.0.1", f"{ours}stem")
    number = 0
    for stage, blocks in enumerate(BLOCKS):
        for block in range(blocks):
            number += 1
            unit, mine = f"{theirs}features.{number}.conv", f"{ours}stages.{stage}.{block}"
            names = ["depthwise"] if stage == 0 else ["expand", "depthwise"]
            for i, name in enumerate(names):
                rules += _unit(f"{unit}.{i}.0", f"{unit}.{i}.1", f"{mine}.{name}")
            rules += _unit(f"{unit}.{len(names)}", f"{unit}.{len(names) + 1}", f"{mine}.project")
    return rules + _unit(f"{theirs}features.18.0", f"{theirs}features.18.1", f"{ours}head")


def timm_rules() -> list[Rule]:
    """The table of timm's row of inverted residual blocks, classifier included."""
    rules = _unit("conv_stem", "bn1", "stem")
    first, mine = "blocks.0.0", "stages.0.0"
    rules += _unit(f"{first}.conv_dw", f"{first}.bn1", f"{mine}.depthwise")
    rules += _unit(f"{first}.conv_pw", f"{first}.bn2", f"{mine}.project")
    block, mine = "blocks.{}.{}", "stages.{}.{}"
    for i, (theirs, ours) in enumerate((("conv_pw", "expand"), ("conv_dw", "depthwise"), ("conv_pwl", "project"))):
        rules += _unit(f"{block}.{theirs}", f"{block}.bn{i + 1}", f"{mine}.{ours}")
    return [*rules, *_unit("conv_head", "bn2", "head"), Rule("classifier.{}", "classifier.{}")]


def _width(stem: Tensor) -> dict[str, Any]:
    widths = {32: 1.0, 16: 0.5, 48: 1.4}
    return {"width": widths[stem.shape[0]], "in_channels": stem.shape[1]}


def _torchvision_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return _width(state["features.0.0.weight"]) | {"num_classes": state["classifier.1.weight"].shape[0]}


def _timm_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return _width(state["conv_stem.weight"]) | {"num_classes": state["classifier.weight"].shape[0]}


LAYOUTS = (
    Layout(
        "mobilenet_v2/torchvision",
        "mobilenet_v2",
        (*torchvision_rules(), Rule("classifier.1.{}", "classifier.{}")),
        _torchvision_arguments,
        "https://github.com/pytorch/vision",
    ),
    Layout(
        "mobilenet_v2/timm",
        "mobilenet_v2",
        tuple(timm_rules()),
        _timm_arguments,
        "https://github.com/huggingface/pytorch-image-models",
    ),
)
