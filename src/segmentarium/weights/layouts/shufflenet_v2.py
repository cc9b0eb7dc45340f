"""ShuffleNetV2 as torchvision, mmpretrain and the authors' public code store it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from segmentarium.backbones.shufflenet_v2 import WIDTHS
from segmentarium.weights.layouts.parts import conv_bn, neighbours
from segmentarium.weights.layouts.shufflenet_v1 import FEATURES, blue_first_stem, numbered
from segmentarium.weights.table import Golden, Layout, Rule, outputs_of


def _branch(theirs: str, ours: str) -> list[Rule]:
    """1×1, norm, ReLU, depthwise, norm, 1×1, norm, ReLU in a row."""
    return [rule for i, first in enumerate((0, 3, 5)) for rule in neighbours(theirs, f"{ours}.{i}", first)]


def _shortcut(theirs: str, ours: str) -> list[Rule]:
    return [*neighbours(theirs, f"{ours}.0"), *neighbours(theirs, f"{ours}.1", 2)]


def _torchvision_rules() -> tuple[Rule, ...]:
    rules = neighbours("conv1", "stem") + neighbours("conv5", "final")
    for i in range(3):
        stage, ours = f"stage{i + 2}", f"stages.{i}"
        rules += _shortcut(f"{stage}.0.branch1", f"{ours}.shortcut")
        rules += _branch(f"{stage}.{{}}.branch2", f"{ours}.branches.{{}}")
    return (*rules, Rule("fc.{}", "classifier.{}"))


def _mmpretrain_rules() -> tuple[Rule, ...]:
    return (
        *conv_bn("backbone.conv1", "stem"),
        *conv_bn("backbone.layers.{}.0.branch1.{}", "stages.{}.shortcut.{}"),
        *conv_bn("backbone.layers.{}.{}.branch2.{}", "stages.{}.branches.{}.{}"),
        *conv_bn("backbone.layers.3", "final"),
        Rule("head.fc.{}", "classifier.{}"),
    )


def _megvii_rules() -> tuple[Rule, ...]:
    rules = blue_first_stem() + neighbours("conv_last", "final")
    for theirs, ours in numbered():
        stage, _, unit = ours.rpartition(".")
        rules += _branch(f"{theirs}.branch_main", f"{stage}.branches.{unit}")
        if unit == "0":
            rules += _shortcut(f"{theirs}.branch_proj", f"{stage}.shortcut")
    return (*rules, Rule("classifier.0.{}", "classifier.{}"))


def _arguments(state: Mapping[str, Tensor], form: str, stem: str, first: str, classifier: str) -> dict[str, Any]:
    """first: the first convolution of the first unit's branch, half as wide as its stage."""
    widths = {stage2: width for width, (stage2, *_) in WIDTHS.items()}
    return {
        "width": widths[2 * state[first].shape[0]],
        "form": form,
        "in_channels": state[stem].shape[1],
        "num_classes": outputs_of(state, classifier),
    }


LAYOUTS = (
    Layout(
        "shufflenet_v2/torchvision",
        "shufflenet_v2",
        _torchvision_rules(),
        partial(
            _arguments,
            form="torchvision",
            stem="conv1.0.weight",
            first="stage2.0.branch2.0.weight",
            classifier="fc.weight",
        ),
        "https://github.com/pytorch/vision",
    ),
    Layout(
        "shufflenet_v2/mmpretrain",
        "shufflenet_v2",
        _mmpretrain_rules(),
        partial(
            _arguments,
            form="torchvision",
            stem="backbone.conv1.conv.weight",
            first="backbone.layers.0.0.branch2.0.conv.weight",
            classifier="head.fc.weight",
        ),
        "https://github.com/open-mmlab/mmpretrain",
    ),
    Layout(
        "shufflenet_v2/megvii",
        "shufflenet_v2",
        _megvii_rules(),
        partial(
            _arguments,
            form="megvii",
            stem="first_conv.0.weight",
            first="features.0.branch_main.0.weight",
            classifier="classifier.0.weight",
        ),
        "https://github.com/megvii-model/ShuffleNet-Series",
        goldens={"backbone/shufflenetv2-0.5x-features": Golden(FEATURES)},
    ),
)
