"""Aligned Xception as timm stores it, in both forms; the tables serve DeepLabV3+ on it, too."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from segmentarium.weights.layouts.parts import conv_bn
from segmentarium.weights.table import Layout, Rule, outputs_of

CONVS = (("conv1", "convs.0"), ("conv2", "convs.1"), ("conv3", "last"))
DEPTHS = {13: 41, 21: 65, 23: 71}  # by the number of blocks


def aligned_rules(theirs: str = "", ours: str = "", dot: str = ".") -> list[Rule]:
    """The table without the classifier, prefixes ending in a dot.  dot: what stands before a block's number (timm's networks
    that give features flatten it to "_")."""
    block, mine = f"{theirs}blocks{dot}{{}}", f"{ours}blocks.{{}}"
    rules = conv_bn(f"{theirs}stem{dot}{{}}", f"{ours}stem.{{}}") + conv_bn(f"{block}.shortcut", f"{mine}.shortcut")
    for conv, name in CONVS:
        for short, half in (("dw", "depthwise"), ("pw", "pointwise")):
            rules.append(Rule(f"{block}.stack.{conv}.conv_{short}.{{}}", f"{mine}.{name}.{half}.conv.{{}}"))
            rules.append(Rule(f"{block}.stack.{conv}.bn_{short}.{{}}", f"{mine}.{name}.{half}.norm.{{}}"))
    return rules


def preact_rules(theirs: str = "", ours: str = "", dot: str = ".") -> list[Rule]:
    """The same of the form with norms before the convolutions."""
    block, mine = f"{theirs}blocks{dot}{{}}", f"{ours}blocks.{{}}"
    rules = conv_bn(f"{theirs}stem{dot}0", f"{ours}stem.0")
    rules.append(Rule(f"{theirs}stem{dot}1.weight", f"{ours}stem.1.weight"))
    rules.append(Rule(f"{block}.shortcut.weight", f"{mine}.shortcut.weight"))
    rules.append(Rule(f"{block}.norm.{{}}", f"{mine}.norm.{{}}"))
    for conv, name in CONVS:
        rules.append(Rule(f"{block}.stack.{conv}.norm.{{}}", f"{mine}.{name}.norm.{{}}"))
        for short, half in (("dw", "depthwise"), ("pw", "pointwise")):
            rules.append(Rule(f"{block}.stack.{conv}.conv_{short}.weight", f"{mine}.{name}.{half}.conv.weight"))
    return rules


def aligned_depth(state: Mapping[str, Tensor], start: str) -> int:
    """41, 65 or 71, by the blocks whose keys begin with `start` and a number; KeyError where it is none."""
    return DEPTHS[len({key.removeprefix(start).partition(".")[0] for key in state if key.startswith(start)})]


def _arguments(state: Mapping[str, Tensor], *, preact: bool) -> dict[str, Any]:
    depth = aligned_depth(state, "blocks.")
    return {
        "depth": depth,
        "preact": preact,
        "norm_eps": 1e-5 if preact and depth == 41 else 1e-3,
        "in_channels": state["stem.0.conv.weight"].shape[1],
        "num_classes": outputs_of(state, "head.fc.weight"),
    }


FC = Rule("head.fc.{}", "classifier.{}")
TIMM = "https://github.com/huggingface/pytorch-image-models"
LAYOUTS = (
    Layout("xception_aligned/timm", "xception65", (*aligned_rules(), FC), partial(_arguments, preact=False), TIMM),
    Layout(
        "xception_aligned/timm_preact", "xception65p", (*preact_rules(), FC), partial(_arguments, preact=True), TIMM
    ),
)
