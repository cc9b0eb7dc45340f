"""SINet for streets as its authors store it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from segmentarium.weights.layouts.parts import neighbours
from segmentarium.weights.layouts.sinet import down, norm_act
from segmentarium.weights.table import Layout, Rule


def _module(theirs: str, ours: str) -> list[Rule]:
    rules = [Rule(f"{theirs}.c1.conv.{{}}", f"{ours}.reduce.{{}}"), *norm_act(f"{theirs}.BR", f"{ours}.join")]
    for index in (0, 1):
        branch, mine = f"{theirs}.d{index + 1}", f"{ours}.branches.{index}"
        for line, norm, place in (("vertical", "B_v", "column"), ("horizontal", "B_h", "row")):
            rules += [
                Rule(f"{branch}.{line}.{{}}", f"{mine}.depthwise.{place}.conv.{{}}"),
                Rule(f"{branch}.{norm}.{{}}", f"{mine}.depthwise.{place}.norm.{{}}"),
            ]
        rules += [
            *neighbours(f"{branch}.conv", f"{mine}.depthwise"),  # of branches that are a plain 3×3
            Rule(f"{branch}.act_conv1x1.0.{{}}", f"{mine}.depthwise.act.{{}}"),
            Rule(f"{branch}.act_conv1x1.1.{{}}", f"{mine}.pointwise.{{}}"),
            Rule(f"{branch}.bn.{{}}", f"{mine}.up.norm.{{}}"),
        ]
    return rules


def _rules() -> tuple[Rule, ...]:
    rules = [
        Rule("encoder.level1.conv.{}", "encoder.stem.conv.{}"),
        *norm_act("encoder.level1", "encoder.stem"),
        Rule("encoder.classifier.conv.{}", "encoder.classifier.{}"),
        Rule("bn_4.{}", "up8.norm.{}"),
        Rule("bn_3.{}", "up4.norm.{}"),
        Rule("level3_C.conv.{}", "detail.conv.{}"),
        *norm_act("level3_C", "detail"),
        Rule("classifier.{}", "classifier.{}"),
    ]
    for level in (2, 3, 4):
        rules += down(f"encoder.level{level}_0", f"encoder.down{level}")
    for level in (3, 4):
        rules += _module(f"encoder.level{level}.{{}}", f"encoder.level{level}.{{}}")
        rules += norm_act(f"encoder.BR{level}", f"encoder.join{level}")
    return tuple(rules)


def _arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        "num_classes": state["bn_4.weight"].shape[0],
        "in_channels": state["encoder.level1.conv.weight"].shape[1],
    }


LAYOUTS = (Layout("sinet_street/clovaai", "sinet_street", _rules(), _arguments, "https://github.com/clovaai/c3_sinet"),)
