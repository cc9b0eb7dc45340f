"""Fast-SCNN as Tramac and as mmsegmentation store it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from segmentarium.weights.layouts.contextnet import auxiliary_head, bottleneck, fusion_and_classifier, separable
from segmentarium.weights.layouts.parts import conv_bn, neighbours
from segmentarium.weights.table import Golden, Layout, Output, Rule


def _tramac() -> tuple[Rule, ...]:
    extractor = "global_feature_extractor"
    rules = neighbours("learning_to_downsample.conv.conv", "downsample.0")
    for index in (1, 2):
        rules += separable(f"learning_to_downsample.dsconv{index}", f"downsample.{index}")
    for stage in range(3):
        rules += bottleneck(f"{extractor}.bottleneck{stage + 1}.{{}}", f"global_features.stages.{stage}.{{}}")
    for index in range(4):
        rules += neighbours(f"{extractor}.ppm.conv{index + 1}.conv", f"global_features.pooling.branches.{index}")
    rules += neighbours(f"{extractor}.ppm.out.conv", "global_features.out")
    return (*rules, *fusion_and_classifier(), *auxiliary_head())


def _mmseg() -> tuple[Rule, ...]:
    downsample, extractor = "backbone.learning_to_downsample", "backbone.global_feature_extractor"
    rules = conv_bn(f"{downsample}.conv", "downsample.0")
    for index in (1, 2):
        rules += conv_bn(f"{downsample}.dsconv{index}.depthwise_conv", f"downsample.{index}.depthwise")
        rules += conv_bn(f"{downsample}.dsconv{index}.pointwise_conv", f"downsample.{index}.pointwise")
    for stage in range(3):
        theirs, ours = f"{extractor}.bottleneck{stage + 1}.{{}}.conv", f"global_features.stages.{stage}.{{}}"
        for index, part in enumerate(("expand", "depthwise", "project")):
            rules += conv_bn(f"{theirs}.{index}", f"{ours}.{part}")
    rules += conv_bn(f"{extractor}.ppm.{{}}.1", "global_features.pooling.branches.{}")
    rules += conv_bn(f"{extractor}.out", "global_features.out")
    rules += conv_bn("backbone.feature_fusion.dwconv", "fusion.depthwise")
    rules += conv_bn("backbone.feature_fusion.conv_lower_res", "fusion.coarse")
    rules += conv_bn("backbone.feature_fusion.conv_higher_res", "fusion.fine")
    rules += conv_bn("decode_head.convs.{}.depthwise_conv", "classifier.{}.depthwise")
    rules += conv_bn("decode_head.convs.{}.pointwise_conv", "classifier.{}.pointwise")
    rules += [Rule("decode_head.conv_seg.{}", "classifier.3.{}")]
    for index, name in enumerate(("aux_32", "aux_8")):
        rules += conv_bn(f"auxiliary_head.{index}.convs.0", f"auxiliary.{name}.0")
        rules += [Rule(f"auxiliary_head.{index}.conv_seg.{{}}", f"auxiliary.{name}.2.{{}}")]
    return tuple(rules)


def _tramac_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        "num_classes": state["classifier.conv.1.weight"].shape[0],
        "in_channels": state["learning_to_downsample.conv.conv.0.weight"].shape[1],
        "form": "tramac",
        "auxiliary": "auxlayer.0.weight" in state,
    }


def _mmseg_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        "num_classes": state["decode_head.conv_seg.weight"].shape[0],
        "in_channels": state["backbone.learning_to_downsample.conv.conv.weight"].shape[1],
        "form": "mmseg",
        "auxiliary": "auxiliary_head.0.conv_seg.weight" in state,
    }


LAYOUTS = (
    Layout(
        "fast_scnn/tramac",
        "fast_scnn",
        _tramac(),
        _tramac_arguments,
        "https://github.com/Tramac/Fast-SCNN-pytorch",
        goldens={
            "realtime/fastscnn-tramac": Golden({"out/0": "forward", "out/1": Output("aux_8", resized=True)}),
        },
    ),
    Layout(
        "fast_scnn/mmseg",
        "fast_scnn",
        _mmseg(),
        _mmseg_arguments,
        "https://github.com/open-mmlab/mmsegmentation",
        goldens={"realtime/fastscnn-mmseg": Golden({"out/0": "logits", "out/1": "aux_32", "out/2": "aux_8"})},
    ),
)
