"""Xception-39 as TorchSeg stores it; `xception39_rules` serves BiSeNet's table too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from segmentarium.weights.table import Layout, Rule


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


LAYOUTS = (
    Layout(
        "xception39/torchseg", "xception39", tuple(xception39_rules()), _arguments, "https://github.com/ycszen/TorchSeg"
    ),
)
