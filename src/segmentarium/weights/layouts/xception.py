"""Xception as timm and segmentation-models-pytorch (smp) store it (they agree), and Xception-39 as TorchSeg does.

`xception39_rules` serves BiSeNet's table too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from segmentarium.weights.table import Layout, Rule, outputs_of


def xception39_rules(theirs: str = "", ours: str = "") -> list[Rule]:
    """The table of the backbone, prefixes ending in a dot."""
    rules = [
        Rule(f"{theirs}conv1.conv.weight", f"{ours}stem.conv.weight"),
        Rule(f"{theirs}conv1.bn.{{}}", f"{ours}stem.norm.{{}}"),
    ]
    for layer in (1, 2, 3):
        for part, mine in (("residual_branch.{}", "convs.{}"), ("proj", "shortcut")):
            unit, our_unit = f"{theirs}layer{layer}.{{}}.{part}", f"{ours}layer{layer}.{{}}.{mine}"
            rules += [
                Rule(f"{unit}.conv1.weight", f"{our_unit}.depthwise.weight"),
                Rule(f"{unit}.point_wise_cbr.conv.weight", f"{our_unit}.pointwise.conv.weight"),
                Rule(f"{unit}.point_wise_cbr.bn.{{}}", f"{our_unit}.pointwise.norm.{{}}"),
            ]
    return rules


def _arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return {"in_channels": state["conv1.conv.weight"].shape[1]}


def xception_rules(theirs: str = "", ours: str = "") -> list[Rule]:
    """The table without the classifier, prefixes ending in a dot."""
    rules = []
    for i in (0, 1):
        rules.append(Rule(f"{theirs}conv{i + 1}.weight", f"{ours}stem.{i}.conv.weight"))
        rules.append(Rule(f"{theirs}bn{i + 1}.{{}}", f"{ours}stem.{i}.norm.{{}}"))
    for i in range(12):
        block, mine = f"{theirs}block{i + 1}", f"{ours}blocks.{i}"
        for conv in range(3 if 3 <= i < 11 else 2):
            place = 3 * conv + (
                1 if i else 0
            )  # each is a ReLU, a convolution and a norm; the very first ReLU is left out
            rules += _separable(f"{block}.rep.{place}", f"{block}.rep.{place + 1}", f"{mine}.convs.{conv}")
        if not 3 <= i < 11:
            rules.append(Rule(f"{block}.skip.weight", f"{mine}.shortcut.conv.weight"))
            rules.append(Rule(f"{block}.skipbn.{{}}", f"{mine}.shortcut.norm.{{}}"))
    for i in (0, 1):
        rules += _separable(f"{theirs}conv{i + 3}", f"{theirs}bn{i + 3}", f"{ours}exit.{i}")
    return rules


def _separable(conv: str, norm: str, ours: str) -> list[Rule]:
    return [
        Rule(f"{conv}.conv1.weight", f"{ours}.depthwise.weight"),
        Rule(f"{conv}.pointwise.weight", f"{ours}.pointwise.conv.weight"),
        Rule(f"{norm}.{{}}", f"{ours}.pointwise.norm.{{}}"),
    ]


def _xception_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """With a classifier it is timm's, without one smp's, which pads the stem and takes features before the ReLU."""
    classes = outputs_of(state, "fc.weight")
    whose = {"activated": False} if classes is None else {"padded_stem": False}
    return {"in_channels": state["conv1.weight"].shape[1], "num_classes": classes} | whose


LAYOUTS = (
    Layout(
        "xception/timm",
        "xception",
        (*xception_rules(), Rule("fc.{}", "classifier.{}")),
        _xception_arguments,
        "https://github.com/huggingface/pytorch-image-models",
        others=("https://github.com/qubvel-org/segmentation_models.pytorch",),
    ),
    Layout(
        "xception39/torchseg", "xception39", tuple(xception39_rules()), _arguments, "https://github.com/ycszen/TorchSeg"
    ),
)
