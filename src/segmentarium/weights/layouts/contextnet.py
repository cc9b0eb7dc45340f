"""ContextNet as Efficient-Segmentation-Networks stores it; its lines for separable convolutions, bottlenecks and fusion are
Tramac's Fast-SCNN's too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from segmentarium.weights.layouts.parts import neighbours
from segmentarium.weights.table import Golden, Layout, Rule


def separable(theirs: str, ours: str) -> list[Rule]:
    return [
        *neighbours(f"{theirs}.conv", f"{ours}.depthwise"),
        *neighbours(f"{theirs}.conv", f"{ours}.pointwise", 3),
    ]


def bottleneck(theirs: str, ours: str) -> list[Rule]:
    return [
        *neighbours(f"{theirs}.block.0.conv", f"{ours}.expand"),
        *neighbours(f"{theirs}.block.1.conv", f"{ours}.depthwise"),
        *neighbours(f"{theirs}.block", f"{ours}.project", 2),
    ]


def fusion_and_classifier() -> list[Rule]:
    return [
        *neighbours("feature_fusion.dwconv.conv", "fusion.depthwise"),
        *neighbours("feature_fusion.conv_lower_res", "fusion.coarse"),
        *neighbours("feature_fusion.conv_higher_res", "fusion.fine"),
        *separable("classifier.dsconv1", "classifier.0"),
        *separable("classifier.dsconv2", "classifier.1"),
        Rule("classifier.conv.1.{}", "classifier.3.{}"),
    ]


def auxiliary_head() -> list[Rule]:
    return [*neighbours("auxlayer", "auxiliary.aux_8.0"), Rule("auxlayer.4.{}", "auxiliary.aux_8.2.{}")]


def _rules() -> tuple[Rule, ...]:
    rules = neighbours("spatial_detail.conv.conv", "detail.0")
    rules += neighbours("context_feature_extractor.conv_.conv", "context.0")
    for index in (1, 2, 3):
        rules += separable(f"spatial_detail.dsconv{index}", f"detail.{index}")
    for stage in range(1, 7):
        rules += bottleneck(f"context_feature_extractor.bottleneck{stage}.{{}}", f"context.{stage}.{{}}")
    return (*rules, *fusion_and_classifier(), *auxiliary_head())


def _arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        "num_classes": state["classifier.conv.1.weight"].shape[0],
        "in_channels": state["spatial_detail.conv.conv.0.weight"].shape[1],
        "auxiliary": "auxlayer.0.weight" in state,
    }


LAYOUTS = (
    Layout(
        "contextnet/efficient-networks",
        "contextnet",
        _rules(),
        _arguments,
        "https://github.com/xiaoyufenfei/Efficient-Segmentation-Networks",
        goldens={"realtime/contextnet": Golden({"out": "forward"})},
    ),
)
