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


def _encoder(theirs: str) -> list[Rule]:
    return [
        Rule(f"{theirs}level1.conv.{{}}", "encoder.stem.conv.{}", bgr=1),
        *norm_act(f"{theirs}level1", "encoder.stem"),
        # the image is the last part of what these two join
        *norm_act(f"{theirs}b1", "encoder.join1", bgr=0),
        *_module(f"{theirs}level2_0", "encoder.down", join="", plain=True, bgr=1),
        *_module(f"{theirs}level2.{{}}", "encoder.level2.{}", plain=True),
        *norm_act(f"{theirs}b2", "encoder.join2", bgr=0),
        *_module(f"{theirs}level3_0", "encoder.widen", plain=True, bgr=1),
        *_module(f"{theirs}level3.{{}}", "encoder.level3.{}"),
        *norm_act(f"{theirs}b3", "encoder.join3"),
    ]


def _rules() -> list[Rule]:
    return [
        *_encoder("encoder."),
        Rule("upsample.0.{}", "coarse.conv.{}"),
        Rule("upsample.1.{}", "coarse.norm.{}"),
        Rule("Fine.0.conv.{}", "fine.0.{}", bgr=1),
        *_module("Fine.1", "fine.1"),
        *norm_act("classifier.0", "join"),
        Rule("classifier.2.{}", "classifier.{}"),
    ]


def _arguments(state: Mapping[str, Tensor], theirs: str, classifier: str) -> dict[str, Any]:
    place = theirs.count(".") + 1  # of a module's number in its keys
    blocks = tuple(
        len({key.split(".")[place] for key in state if key.startswith(f"{theirs}{level}.")})
        for level in ("level2", "level3")
    )
    read = arguments_of(state[f"{theirs}level1.conv.weight"], state[classifier].shape[0])
    return read if blocks == (1, 5) else {**read, "blocks": list(blocks)}


WHOLE, COARSE = "classifier.2.weight", "Coarseclassifier.conv.weight"
LAYOUTS = (
    Layout(
        "extremec3/clovaai",
        "extremec3",
        tuple(_rules()),
        lambda state: _arguments(state, "encoder.", WHOLE),
        SOURCE,
        lambda state: published(state, state[WHOLE].shape[0]),
        {"portrait/extremec3": Golden({"out": "forward"})},
    ),
    Layout(
        "extremec3_encoder/clovaai",
        "extremec3_encoder",
        (*_encoder(""), Rule(COARSE, "classifier.weight")),
        lambda state: _arguments(state, "", COARSE),
        SOURCE,
        lambda state: published(state, state[COARSE].shape[0]),
    ),
)
