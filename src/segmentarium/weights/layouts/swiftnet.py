"""SwiftNet as its authors store it: the single-scale network and the pyramid."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from segmentarium.weights.layouts.parts import rest
from segmentarium.weights.layouts.resnet import resnet_depth, resnet_rules
from segmentarium.weights.table import Golden, Layout, Rule

SOURCE = "https://github.com/orsic/swiftnet"
# mean and standard deviation of the images travel with a model's preprocessing
STATISTICS = [Rule("backbone.img_mean", None), Rule("backbone.img_std", None)]


def _single() -> list[Rule]:
    rules = STATISTICS + resnet_rules("backbone.", "backbone.")
    pooling = "backbone.spp.spp"
    rules += [
        rest(f"{pooling}.spp_bn", "decoder.pooling.reduce"),
        rest(f"{pooling}.spp_fuse", "decoder.pooling.fuse"),
    ]
    rules += [rest(f"{pooling}.spp{i}", f"decoder.pooling.levels.{i}") for i in range(3)]
    rules += [rest("backbone.upsample.{}.bottleneck", "decoder.upsampling.{}.lateral")]
    rules += [rest("backbone.upsample.{}.blend_conv", "decoder.upsampling.{}.blend")]
    return [*rules, rest("logits", "classifier")]


def _pyramid() -> list[Rule]:
    rules = [*STATISTICS, Rule("backbone.conv1.weight", "encoder.stem.conv.weight")]
    rules += [rest("backbone.bn1", "encoder.stem.norms")]
    for stage in range(4):
        theirs, ours = f"backbone.layer{stage + 1}.{{}}", f"encoder.layers.{stage}.{{}}"
        for conv in (1, 2):
            rules += [Rule(f"{theirs}.conv{conv}.weight", f"{ours}.conv{conv}.conv.weight")]
            rules += [rest(f"{theirs}.bn{conv}", f"{ours}.conv{conv}.norms")]
        rules += [Rule(f"{theirs}.downsample.0.weight", f"{ours}.shortcut.conv.weight")]
        rules += [rest(f"{theirs}.downsample.1", f"{ours}.shortcut.norm")]
        rules += [Rule(f"backbone.upsample_bottlenecks.{3 - stage}.weight", f"laterals.{stage}.weight")]
    rules += [rest("backbone.upsample_blends.{}.blend_conv", "blends.{}.blend")]
    return [*rules, rest("logits", "classifier")]


def _common(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        "num_classes": state["logits.conv.weight"].shape[0],
        "in_channels": state["backbone.conv1.weight"].shape[1],
    }


def _basic_depth(state: Mapping[str, Tensor]) -> int:
    depth = resnet_depth(state, "backbone.")
    if depth not in (18, 34):
        # with bottlenecks the authors' skips are the sums before the activation
        raise ValueError(f"the SwiftNet has a ResNet-{depth}; only those with 18 or 34 layers have our form of skips")
    return depth


def _single_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return {**_common(state), "backbone": f"resnet{_basic_depth(state)}"}


def _pyramid_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    levels = sum(f"backbone.bn1.{i}.weight" in state for i in range(8))
    return {**_common(state), "depth": _basic_depth(state), "levels": levels}


GOLDEN = Golden({"out": "forward"}, dropped=("backbone.img_*",), pixels=(50, 75))
LAYOUTS = (
    Layout(
        "swiftnet/orsic",
        "swiftnet",
        tuple(_single()),
        _single_arguments,
        SOURCE,
        goldens={"realtime/swiftnet-rn18": GOLDEN},
    ),
    Layout(
        "swiftnet/orsic_pyramid",
        "swiftnet_pyramid",
        tuple(_pyramid()),
        _pyramid_arguments,
        SOURCE,
        goldens={"realtime/swiftnet-rn18-pyramid": GOLDEN},
    ),
)
