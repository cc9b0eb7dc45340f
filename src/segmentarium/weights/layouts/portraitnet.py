"""PortraitNet as the authors store it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from segmentarium.portrait.portraitnet import PREPROCESSING
from segmentarium.weights.layouts.parts import neighbours
from segmentarium.weights.layouts.sinet import PERSON, arguments_of
from segmentarium.weights.table import Golden, Layout, Rule


def _block(theirs: str, ours: str) -> list[Rule]:
    """An inverted residual."""
    return [
        rule
        for place, name in ((0, "expand"), (3, "depthwise"), (6, "project"))
        for rule in neighbours(f"{theirs}.conv", f"{ours}.{name}", place)
    ]


def _rules() -> list[Rule]:
    rules = [Rule("stage0.0.{}", "encoder.stem.conv.{}", bgr=1), Rule("stage0.1.{}", "encoder.stem.norm.{}")]
    for stage in range(1, 8):  # the first and the last have one block each, which stands alone
        alone = stage in (1, 7)
        ours = f"encoder.stages.{stage - 1}"
        rules += _block(f"stage{stage}", f"{ours}.0") if alone else _block(f"stage{stage}.{{}}", f"{ours}.{{}}")
    for index in range(5):
        theirs, ours = f"transit{index + 1}", f"decoder.{index}"
        rules += neighbours(f"{theirs}.block.0", f"{ours}.convs.0.depthwise")
        rules += neighbours(f"{theirs}.block.0", f"{ours}.convs.0.pointwise", 3)
        rules += neighbours(f"{theirs}.block", f"{ours}.convs.1.depthwise", 1)
        rules += neighbours(f"{theirs}.block", f"{ours}.convs.1.pointwise", 4)
        rules += neighbours(f"{theirs}.residual", f"{ours}.shortcut")
        rules.append(Rule(f"deconv{index + 1}.{{}}", f"{ours}.up.{{}}"))
    return [*rules, Rule("pred.{}", "mask_head.{}"), Rule("edge.{}", "boundary_head.{}")]


def _arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return arguments_of(state["stage0.0.weight"], state["pred.weight"].shape[0]) | {
        "upsample": "deconv" if "deconv1.weight" in state else "bilinear",
        "boundary": "edge.weight" in state,
    }


def _facts(state: Mapping[str, Tensor]) -> dict[str, Any]:
    facts: dict[str, Any] = {"preprocessing": replace(PREPROCESSING, long_side=224).as_dict()}
    return facts | (PERSON if state["pred.weight"].shape[0] == 2 else {})


LAYOUTS = (
    Layout(
        "portraitnet/dong-x16",
        "portraitnet",
        tuple(_rules()),
        _arguments,
        "https://github.com/dong-x16/PortraitNet",
        _facts,
        {
            f"portrait/{name}": Golden({"out/0": "forward", "out/1": "boundary"})
            for name in ("portraitnet", "portraitnet-upsample")
        },
    ),
)
