"""ExtremeC3Net as the authors store it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from segmentarium.weights.layouts.sinet import SOURCE, arguments_of, norm_act, published
from segmentarium.weights.table import Golden, Layout, Rule


def _module(theirs: str, ours: str, *, join: str = ".bn", plain: bool = False, bgr: int | None = None) -> list[Rule]:
    """join: what their joining norm and activation stand under; plain: the first branch has no dilation."""
    rules = [Rule(f"{theirs}.c1.conv.{{}}", f"{ours}.reduce.{{}}", bgr=bgr), *norm_act(theirs + join, f"{ours}.join")]
    gathering = ("gather.0.conv", "gather.0.norm", "gather.0.act", "gather.1.conv", "gather.1.norm")
    for index in range(3):
        names = ("depthwise", "pointwise") if plain and index == 0 else (*gathering, "depthwise", "pointwise")
        rules += [
            Rule(f"{theirs}.d{index + 1}.conv.{place}.{{}}", f"{ours}.branches.{index}.{name}.{{}}")
            for place, name in enumerate(names)
        ]
    return rules


def _rules() -> list[Rule]:
    return [
        Rule("encoder.level1.conv.{}", "encoder.stem.conv.{}", bgr=1),
        *norm_act("encoder.level1", "encoder.stem"),
        # the image is the last part of what these two join
        *norm_act("encoder.b1", "encoder.join1", bgr=0),
        *_module("encoder.level2_0", "encoder.down", join="", plain=True, bgr=1),
        *_module("encoder.level2.{}", "encoder.level2.{}", plain=True),
        *norm_act("encoder.b2", "encoder.join2", bgr=0),
        *_module("encoder.level3_0", "encoder.widen", plain=True, bgr=1),
        *_module("encoder.level3.{}", "encoder.level3.{}"),
        *norm_act("encoder.b3", "encoder.join3"),
        Rule("upsample.0.{}", "coarse.conv.{}"),
        Rule("upsample.1.{}", "coarse.norm.{}"),
        Rule("Fine.0.conv.{}", "fine.0.{}", bgr=1),
        *_module("Fine.1", "fine.1"),
        *norm_act("classifier.0", "join"),
        Rule("classifier.2.{}", "classifier.{}"),
    ]


def _arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return arguments_of(state["encoder.level1.conv.weight"], state["classifier.2.weight"].shape[0])


LAYOUTS = (
    Layout(
        "extremec3/clovaai",
        "extremec3",
        tuple(_rules()),
        _arguments,
        SOURCE,
        lambda state: published(state, state["classifier.2.weight"].shape[0]),
        {"portrait/extremec3": Golden({"out": "forward"})},
    ),
)
