"""ShuffleNet as the authors' public code and mmpretrain store it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from segmentarium.backbones.shufflenet_v1 import BLOCKS, STAGE2
from segmentarium.weights.layouts.parts import conv_bn, neighbours
from segmentarium.weights.table import Golden, Layout, Rule, outputs_of

FEATURES = {f"out/stage{i + 1}": f"feature {i}" for i in (1, 2, 3)}


def numbered() -> list[tuple[str, str]]:
    """The units in one row, as the authors number them -> ours: ("features.4", "stages.1.0")."""
    places = [(stage, unit) for stage, units in enumerate(BLOCKS) for unit in range(units)]
    return [(f"features.{i}", f"stages.{stage}.{unit}") for i, (stage, unit) in enumerate(places)]


def blue_first_stem() -> list[Rule]:
    """The authors' stem, which sees blue, green and red."""
    return [
        Rule("first_conv.0.weight", "stem.conv.weight", bgr=1),
        Rule("first_conv.1.{}", "stem.norm.{}"),
    ]


def _megvii_rules() -> tuple[Rule, ...]:
    rules = blue_first_stem()
    for unit, ours in numbered():
        rules += neighbours(f"{unit}.branch_main_1", f"{ours}.reduce")
        rules += neighbours(f"{unit}.branch_main_1", f"{ours}.depthwise", 3)
        rules += neighbours(f"{unit}.branch_main_2", f"{ours}.expand")
    return (*rules, Rule("classifier.0.{}", "classifier.{}"))


def _mmpretrain_rules() -> tuple[Rule, ...]:
    unit, ours = "backbone.layers.{}.{}", "stages.{}.{}"
    return (
        *conv_bn("backbone.conv1", "stem"),
        *conv_bn(f"{unit}.g_conv_1x1_compress", f"{ours}.reduce"),
        *conv_bn(f"{unit}.depthwise_conv3x3_bn", f"{ours}.depthwise"),
        *conv_bn(f"{unit}.g_conv_1x1_expand", f"{ours}.expand"),
        Rule("head.fc.{}", "classifier.{}"),
    )


def _read(state: Mapping[str, Tensor], stem: str, reduce: str, expand: str, classifier: str) -> dict[str, Any]:
    """Groups and width off the second unit's two 1×1 convolutions: all its channels come in, and go out."""
    outputs = state[expand].shape[0]
    groups = outputs // state[reduce].shape[1]
    return {
        "groups": groups,
        "width": outputs / STAGE2[groups],
        "in_channels": state[stem].shape[1],
        "num_classes": outputs_of(state, classifier),
    }


def _megvii_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    unit = "features.1"
    keys = ("first_conv.0.weight", f"{unit}.branch_main_1.0.weight", f"{unit}.branch_main_2.0.weight")
    return _read(state, *keys, "classifier.0.weight") | {"form": "megvii"}


def _mmpretrain_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    unit = "backbone.layers.0.1"
    keys = ("backbone.conv1.conv.weight", f"{unit}.g_conv_1x1_compress.conv.weight")
    return _read(state, *keys, f"{unit}.g_conv_1x1_expand.conv.weight", "head.fc.weight") | {"form": "mmpretrain"}


LAYOUTS = (
    Layout(
        "shufflenet_v1/megvii",
        "shufflenet_v1",
        _megvii_rules(),
        _megvii_arguments,
        "https://github.com/megvii-model/ShuffleNet-Series",
        goldens={
            "backbone/shufflenetv1-0.5x-g3": Golden({"out": "classify"}),
            "backbone/shufflenetv1-0.5x-g3-features": Golden(FEATURES),
            "backbone/shufflenetv1-1.0x-g3": Golden({"out": "classify"}),
        },
    ),
    Layout(
        "shufflenet_v1/mmpretrain",
        "shufflenet_v1",
        _mmpretrain_rules(),
        _mmpretrain_arguments,
        "https://github.com/open-mmlab/mmpretrain",
    ),
)
