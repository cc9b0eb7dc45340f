"""MobileNetV2 as torchvision (and segmentation-models-pytorch), timm, tonylins, mmpretrain, mmsegmentation and transformers
store it; the tables serve larger networks and its kin too.

Those of mmpretrain and mmsegmentation rest on their code: no file of theirs was at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from segmentarium.backbones.mobilenet_v2 import STAGES
from segmentarium.preprocessing import Preprocessing
from segmentarium.weights.table import Layout, Rule, outputs_of, to_ours

BLOCKS = tuple(blocks for _, _, blocks, _ in STAGES)
DEPTHS = {17: 1.0, 22: 1.2, 26: 1.4}  # depth coefficients by the number of all blocks
CONVS = ("expand", "depthwise", "project")  # of a block


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
            names = CONVS[1:] if stage == 0 else CONVS
            for i, name in enumerate(names):
                conv, norm = places(i, len(names))
                rules += unit(f"{inner}.{conv}", f"{inner}.{norm}", f"{mine}.{name}")
    return rules + unit(f"{theirs}features.18.0", f"{theirs}features.18.1", f"{ours}head")


def torchvision_rules(theirs: str = "", ours: str = "") -> list[Rule]:
    """Prefixes ending in a dot; without the classifier."""
    return numbered_rules(
        theirs, ours, lambda i, count: (f"{i}.0", f"{i}.1") if i < count - 1 else (f"{i}", f"{i + 1}")
    )


def vainf_rules(theirs: str = "backbone.", ours: str = "backbone.") -> list[Rule]:
    """Of VainF's DeepLabV3: torchvision's row cut in two, without its last convolution; prefixes ending in a dot."""
    rules = []
    for rule in torchvision_rules(theirs, ours):
        number = int(str(rule.theirs).removeprefix(f"{theirs}features.").partition(".")[0])
        if number < 18:
            part = "low_level_features" if number < 4 else "high_level_features"
            rules.append(replace(rule, theirs=str(rule.theirs).replace("features", part, 1)))
    return rules


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


def mmseg_rules(theirs: str = "", ours: str = "") -> list[Rule]:
    """mmpretrain's and mmsegmentation's, prefixes ending in a dot; without the classifier.  The first has "conv2", our head."""
    rules = [
        rule
        for name, mine in (("conv1", "stem"), ("conv2", "head"))
        for rule in unit(f"{theirs}{name}.conv", f"{theirs}{name}.bn", ours + mine)
    ]
    for stage in range(len(BLOCKS)):
        for i, name in enumerate(CONVS[1:] if stage == 0 else CONVS):
            place = f"{theirs}layer{stage + 1}.{{}}.conv.{i}"
            rules += unit(f"{place}.conv", f"{place}.bn", f"{ours}stages.{stage}.{{}}.{name}")
    return rules


def transformers_rules(theirs: str = "mobilenet_v2.", ours: str = "") -> list[Rule]:
    """Prefixes ending in a dot; without the classifier."""

    def unit(theirs: str, ours: str) -> list[Rule]:
        return [
            Rule(f"{theirs}.convolution.weight", f"{ours}.conv.weight"),
            Rule(f"{theirs}.normalization.{{}}", f"{ours}.norm.{{}}"),
        ]

    names = dict(zip(CONVS, ("expand_1x1", "conv_3x3", "reduce_1x1"), strict=True))
    rules = [*unit(f"{theirs}conv_stem.first_conv", f"{ours}stem"), *unit(f"{theirs}conv_1x1", f"{ours}head")]
    for name in CONVS[1:]:
        rules += unit(f"{theirs}conv_stem.{names[name]}", f"{ours}stages.0.0.{name}")
    places = [(stage, block) for stage, blocks in enumerate(BLOCKS) for block in range(blocks)][1:]
    for number, (stage, block) in enumerate(places):
        for name in CONVS:
            rules += unit(f"{theirs}layer.{number}.{names[name]}", f"{ours}stages.{stage}.{block}.{name}")
    return rules


def arguments_of(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Coefficients and input channels, read off our keys of a whole row of stages."""
    number = max(
        i for i in range(len(STAGES)) if f"stages.{i}.0.project.conv.weight" in tensors
    )  # a file may end early
    blocks = sum(key.endswith("project.conv.weight") for key in tensors)
    return {
        "width": tensors[f"stages.{number}.0.project.conv.weight"].shape[0] / STAGES[number][1],
        "depth": DEPTHS.get(blocks, 1.0),
        "in_channels": tensors["stem.conv.weight"].shape[1],
    }


def _arguments(rules: Sequence[Rule], also: dict[str, Any], state: Mapping[str, Tensor]) -> dict[str, Any]:
    state[str(rules[0].theirs)]  # the stem's: another network's keys end here
    tensors, _, _ = to_ours(state, rules, {})
    classes = outputs_of(tensors, "classifier.weight")
    # a file without a classifier may have the convolution behind the stages all the same
    final = {"final_conv": True} if classes is None and "head.conv.weight" in tensors else {}
    return arguments_of(tensors) | {"num_classes": classes} | final | also


def _layout(name: str, rules: Sequence[Rule], source: str, also: dict[str, Any] | None = None, **more: Any) -> Layout:
    """also   arguments that no shape tells"""
    table = tuple(rules)
    arguments = partial(_arguments, table, also or {})
    return Layout(f"mobilenet_v2/{name}", "mobilenet_v2", table, arguments, source, **more)


MMSEG_DILATION = {"contract_dilation": False, "dilate_first_only": True}
OPENMMLAB = "https://github.com/open-mmlab"
# the authors' weights: inputs from -1 to 1, and a class "background" before the thousand
AUTHORS = Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)).as_dict()
LAYOUTS = (
    _layout(
        "torchvision",
        (*torchvision_rules(), Rule("classifier.1.{}", "classifier.{}")),
        "https://github.com/pytorch/vision",
        others=("https://github.com/qubvel-org/segmentation_models.pytorch",),
    ),
    _layout("timm", timm_rules(), "https://github.com/huggingface/pytorch-image-models"),
    _layout(
        "tonylins",
        (
            *numbered_rules("", "", lambda i, _: (f"{3 * i}", f"{3 * i + 1}")),
            Rule("classifier.{}", "classifier.{}"),
        ),
        "https://github.com/tonylins/pytorch-mobilenet-v2",
    ),
    _layout("mmpretrain", (*mmseg_rules("backbone."), Rule("head.fc.{}", "classifier.{}")), f"{OPENMMLAB}/mmpretrain"),
    _layout(
        "mmseg",
        mmseg_rules(),
        f"{OPENMMLAB}/mmsegmentation",
        MMSEG_DILATION,
    ),
    _layout(
        "transformers",
        (*transformers_rules(), Rule("classifier.{}", "classifier.{}")),
        "https://github.com/huggingface/transformers",
        {"norm_eps": 1e-3, "same_padding": True},
        facts=lambda state: {"preprocessing": AUTHORS},
    ),
)
