"""MobileNetV2 as torchvision, timm and tonylins store it; the tables serve larger networks and its kin too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor

from segmentarium.weights.table import Layout, Rule, outputs_of

BLOCKS = (1, 2, 3, 4, 3, 3, 1)  # of each stage


def unit(conv: str, norm: str, ours: str) -> list[Rule]:
    """A convolution without a bias, and its norm."""
    return [Rule(f"{conv}.weight", f"{ours}.conv.weight"), Rule(f"{norm}.{{}}", f"{ours}.norm.{{}}")]


def numbered_rules(theirs: str, ours: str, places: Callable[[int, int], tuple[str, str]]) -> list[Rule]:
    """The table without the classifier of networks that number all blocks in one row, prefixes ending in a dot.

    places   (which convolution of a block, how many it has) -> where it and its norm stand in the block
    """
    rules = unit(f"{theirs}features.0.0", f"{theirs}features.0.1", f"{ours}stem")
    number = 0
    for stage, blocks in enumerate(BLOCKS):
        for block in range(blocks):
            number += 1
            inner, mine = f"{theirs}features.{number}.conv", f"{ours}stages.{stage}.{block}"
            names = ("depthwise", "project") if stage == 0 else ("expand", "depthwise", "project")
            for i, name in enumerate(names):
                conv, norm = places(i, len(names))
                rules += unit(f"{inner}.{conv}", f"{inner}.{norm}", f"{mine}.{name}")
    return rules + unit(f"{theirs}features.18.0", f"{theirs}features.18.1", f"{ours}head")


def torchvision_rules(theirs: str = "", ours: str = "") -> list[Rule]:
    """Prefixes ending in a dot; without the classifier."""
    return numbered_rules(
        theirs, ours, lambda i, count: (f"{i}.0", f"{i}.1") if i < count - 1 else (f"{i}", f"{i + 1}")
    )


def timm_rules() -> list[Rule]:
    """The table of timm's row of inverted residual blocks, classifier included."""
    rules = unit("conv_stem", "bn1", "stem")
    first, mine = "blocks.0.0", "stages.0.0"
    rules += unit(f"{first}.conv_dw", f"{first}.bn1", f"{mine}.depthwise")
    rules += unit(f"{first}.conv_pw", f"{first}.bn2", f"{mine}.project")
    block, mine = "blocks.{}.{}", "stages.{}.{}"
    for i, (theirs, ours) in enumerate((("conv_pw", "expand"), ("conv_dw", "depthwise"), ("conv_pwl", "project"))):
        rules += unit(f"{block}.{theirs}", f"{block}.bn{i + 1}", f"{mine}.{ours}")
    return [*rules, *unit("conv_head", "bn2", "head"), Rule("classifier.{}", "classifier.{}")]


def _width(stem: Tensor) -> dict[str, Any]:
    widths = {32: 1.0, 16: 0.5, 48: 1.4}
    return {"width": widths[stem.shape[0]], "in_channels": stem.shape[1]}


def _arguments(state: Mapping[str, Tensor], stem: str, last: str, classifier: str) -> dict[str, Any]:
    """last: the convolution behind the stages, which a file without a classifier may have all the same."""
    classes = outputs_of(state, classifier)
    final = {"final_conv": True} if classes is None and last in state else {}
    return _width(state[stem]) | {"num_classes": classes} | final


NUMBERED = {"stem": "features.0.0.weight", "last": "features.18.0.weight"}
LAYOUTS = (
    Layout(
        "mobilenet_v2/torchvision",
        "mobilenet_v2",
        (*torchvision_rules(), Rule("classifier.1.{}", "classifier.{}")),
        partial(_arguments, **NUMBERED, classifier="classifier.1.weight"),
        "https://github.com/pytorch/vision",
    ),
    Layout(
        "mobilenet_v2/timm",
        "mobilenet_v2",
        tuple(timm_rules()),
        partial(_arguments, stem="conv_stem.weight", last="conv_head.weight", classifier="classifier.weight"),
        "https://github.com/huggingface/pytorch-image-models",
    ),
    Layout(
        "mobilenet_v2/tonylins",
        "mobilenet_v2",
        (
            *numbered_rules("", "", lambda i, _: (f"{3 * i}", f"{3 * i + 1}")),
            Rule("classifier.{}", "classifier.{}"),
        ),
        partial(_arguments, **NUMBERED, classifier="classifier.weight"),
        "https://github.com/tonylins/pytorch-mobilenet-v2",
    ),
)
