"""CGNet as the authors store it, with and without the dropout that shifts the classifier's number, and as mmsegmentation does.

mmsegmentation's table rests on its code (`backbones/cgnet.py`, `decode_heads/fcn_head.py`), whose stages hold the block that
begins them as number 0.  Both take pictures of 0 to 255 minus a mean; that of Cityscapes stands for the authors' CamVid, too,
whose own is not known.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from segmentarium.preprocessing import Preprocessing
from segmentarium.weights.layouts.parts import rest
from segmentarium.weights.table import Golden, Layout, Rule

STAGES = ((2, "level2"), (3, "level3"))
# the authors subtract the means of blue, green and red from red, green and blue; mmsegmentation took that over
PREPROCESSING = Preprocessing((72.39 / 255, 82.91 / 255, 73.16 / 255), (1 / 255,) * 3)
MOST = 32  # blocks of a stage that mmsegmentation's table can read; published networks have 21


def _unit(theirs: str, ours: str) -> list[Rule]:
    """A convolution with its batch norm and PReLU."""
    parts = (("conv", "conv"), ("bn", "norm"), ("act", "act"))
    return [Rule(f"{theirs}.{a}.{{}}", f"{ours}.{b}.{{}}") for a, b in parts]


def _block(theirs: str, ours: str, joint_norm: str) -> list[Rule]:
    return [
        *_unit(f"{theirs}.conv1x1", f"{ours}.conv"),
        Rule(f"{theirs}.F_loc.conv.{{}}", f"{ours}.joint.local.{{}}"),
        Rule(f"{theirs}.F_sur.conv.{{}}", f"{ours}.joint.surrounding.{{}}"),
        Rule(f"{theirs}.{joint_norm}bn.{{}}", f"{ours}.joint.norm.{{}}"),
        Rule(f"{theirs}.{joint_norm}act.{{}}", f"{ours}.joint.act.{{}}"),
        Rule(f"{theirs}.F_glo.fc.0.{{}}", f"{ours}.context.squeeze.{{}}"),
        Rule(f"{theirs}.F_glo.fc.2.{{}}", f"{ours}.context.excite.{{}}"),
    ]


def _rules(classifier: int) -> tuple[Rule, ...]:
    rules: list[Rule] = []
    for index in range(3):
        rules += _unit(f"level1_{index}", f"stem.{index}")
    for index, theirs in enumerate(("b1", "bn_prelu_2", "bn_prelu_3"), 1):
        rules += [Rule(f"{theirs}.bn.{{}}", f"join{index}.0.{{}}"), Rule(f"{theirs}.act.{{}}", f"join{index}.1.{{}}")]
    for stage, theirs in STAGES:
        rules += _block(f"{theirs}_0", f"down{stage}", "")
        rules += [Rule(f"{theirs}_0.reduce.conv.{{}}", f"down{stage}.reduce.{{}}")]
        rules += _block(f"{theirs}.{{}}", f"stage{stage}.{{}}", "bn_prelu.")
    return (*rules, Rule(f"classifier.{classifier}.conv.{{}}", "classifier.{}"))


def _arguments(state: Mapping[str, Tensor], classifier: int) -> dict[str, Any]:
    depths = [len({key.split(".")[1] for key in state if key.startswith(f"{name}.")}) for _, name in STAGES]
    return {
        "num_classes": state[f"classifier.{classifier}.conv.weight"].shape[0],
        "in_channels": state["level1_0.conv.weight"].shape[1],
        "blocks": (depths[0] + 1, depths[1] + 1),
        "dropout": 0.1 if classifier else 0.0,
    }


def _facts(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return {"preprocessing": PREPROCESSING.as_dict()}


def _layout(name: str, classifier: int, golden: str) -> Layout:
    return Layout(
        name,
        "cgnet",
        _rules(classifier),
        partial(_arguments, classifier=classifier),
        "https://github.com/wutianyiRosun/CGNet",
        _facts,
        goldens={golden: Golden({"out": "forward"})},
    )


def _mmseg_unit(theirs: str, ours: str) -> list[Rule]:
    return [rest(f"{theirs}.{a}", f"{ours}.{b}") for a, b in (("conv", "conv"), ("bn", "norm"), ("activate", "act"))]


def _mmseg_block(theirs: str, ours: str) -> list[Rule]:
    parts = {
        "f_loc": "joint.local",
        "f_sur": "joint.surrounding",
        "bn": "joint.norm",
        "activate": "joint.act",
        "bottleneck": "reduce",
        "f_glo.fc.0": "context.squeeze",
        "f_glo.fc.2": "context.excite",
    }
    return [
        *_mmseg_unit(f"{theirs}.conv1x1", f"{ours}.conv"),
        *(rest(f"{theirs}.{a}", f"{ours}.{b}") for a, b in parts.items()),
    ]


def _mmseg() -> tuple[Rule, ...]:
    rules = _mmseg_unit("backbone.stem.{}", "stem.{}")
    rules += [rest(f"backbone.norm_prelu_{i}", f"join{i + 1}") for i in range(3)]
    for stage in (1, 2):
        level = f"backbone.level{stage}"
        rules += _mmseg_block(f"{level}.0", f"down{stage + 1}")
        for number in range(1, MOST):
            rules += _mmseg_block(f"{level}.{number}", f"stage{stage + 1}.{number - 1}")
    return (*rules, rest("decode_head.conv_seg", "classifier"))


def _mmseg_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    depths = [len({key.split(".")[2] for key in state if key.startswith(f"backbone.level{i}.")}) for i in (1, 2)]
    return {
        "num_classes": state["decode_head.conv_seg.weight"].shape[0],
        "in_channels": state["backbone.stem.0.conv.weight"].shape[1],
        "blocks": (depths[0], depths[1]),
        "head_bias": True,
    }


LAYOUTS = (
    _layout("cgnet/official", 0, "realtime/cgnet"),
    _layout("cgnet/official-dropout", 1, "realtime/cgnet-m2n3-odd"),
    Layout("cgnet/mmseg", "cgnet", _mmseg(), _mmseg_arguments, "https://github.com/open-mmlab/mmsegmentation", _facts),
)
