"""PortraitNet as the authors store it: for photographs, and for video.

The one for video (`model_mobilenetv2_seg_small.py` with `video=True`) sees the person of the frame before, 0 to 1, as a fourth
channel behind the colours; 0 everywhere for a first frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from segmentarium.portrait.portraitnet import PREPROCESSING
from segmentarium.preprocessing import Preprocessing
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


def _rules(prior: int) -> list[Rule]:
    rules = [
        Rule("stage0.0.{}", "encoder.stem.conv.{}", bgr=1, behind=prior),
        Rule("stage0.1.{}", "encoder.stem.norm.{}"),
    ]
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


def _arguments(state: Mapping[str, Tensor], prior: int) -> dict[str, Any]:
    return arguments_of(state["stage0.0.weight"], state["pred.weight"].shape[0], 3 + prior) | {
        "upsample": "deconv" if "deconv1.weight" in state else "bilinear",
        "boundary": "edge.weight" in state,
    }


def _facts(state: Mapping[str, Tensor], prior: int) -> dict[str, Any]:
    mean, std = (*PREPROCESSING.mean, *(0.0,) * prior), (*PREPROCESSING.std, *(1.0,) * prior)
    facts: dict[str, Any] = {"preprocessing": Preprocessing(mean, std, long_side=224).as_dict()}
    return facts | (PERSON if state["pred.weight"].shape[0] == 2 else {})


GOLDENS = {
    f"portrait/{name}": Golden({"out/0": "forward", "out/1": "boundary"})
    for name in ("portraitnet", "portraitnet-upsample")
}
LAYOUTS = tuple(
    Layout(
        name,
        "portraitnet",
        tuple(_rules(prior)),
        partial(_arguments, prior=prior),
        "https://github.com/dong-x16/PortraitNet",
        partial(_facts, prior=prior),
        goldens,
    )
    for name, prior, goldens in (("portraitnet/dong-x16", 0, GOLDENS), ("portraitnet/dong-x16_video", 1, {}))
)
