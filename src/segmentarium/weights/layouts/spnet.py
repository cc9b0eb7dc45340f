"""SPNet and its trunk as their authors store them; the trunk's table rests on the whole network's keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from segmentarium.weights.layouts.parts import neighbours, rest
from segmentarium.weights.layouts.resnet import FC, resnet_depth, resnet_rules
from segmentarium.weights.table import Golden, Layout, Rule, outputs_of

SOURCE = "https://github.com/Andrew-Qibin/SPNet"


def strip_pooling(theirs: str, ours: str) -> list[Rule]:
    """The strip pooling module, prefixes ending in a dot."""
    rules = [rest(f"{theirs}conv3", f"{ours}weigh")]
    for i, name in ((1, "rows"), (2, "columns")):
        rules += [rest(f"{theirs}conv{i}", f"{ours}strips.{name}.conv")]
        rules += [rest(f"{theirs}bn{i}", f"{ours}strips.{name}.norm")]
    return rules


def mixed_pooling(theirs: str, ours: str) -> list[Rule]:
    """The mixed pooling module, prefixes ending in a dot."""
    names = {
        "conv1_1": "reduce_short",
        "conv1_2": "reduce_long",
        **{f"conv2_{i}": f"squares.{i}" for i in (0, 1, 2)},
        "conv2_3": "strips.columns",
        "conv2_4": "strips.rows",
        "conv2_5": "mix_short",
        "conv2_6": "mix_long",
        "conv3": "expand",
    }
    return [rule for name, mine in names.items() for rule in neighbours(f"{theirs}{name}", f"{ours}{mine}")]


def head_rules(theirs: str = "head.", ours: str = "decoder.") -> list[Rule]:
    return [
        *neighbours(f"{theirs}trans_layer", f"{ours}reduce"),
        *mixed_pooling(f"{theirs}strip_pool1.", f"{ours}pooling.0."),
        *mixed_pooling(f"{theirs}strip_pool2.", f"{ours}pooling.1."),
        *neighbours(f"{theirs}score_layer", f"{ours}mix"),
        rest(f"{theirs}score_layer.4", f"{ours}classifier"),
    ]


def trunk_rules(theirs: str = "", ours: str = "") -> list[Rule]:
    rules = resnet_rules(theirs, ours, stem="timm")
    for layer in (1, 2, 3, 4):
        rules += strip_pooling(f"{theirs}layer{layer}.{{}}.spm.", f"{ours}inserted.layer{layer}_{{}}_conv2.")
    return rules


def _arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        "num_classes": state["head.score_layer.4.weight"].shape[0],
        "in_channels": state["pretrained.conv1.0.weight"].shape[1],
        "backbone": f"resnet{resnet_depth(state, 'pretrained.')}_spm",
        "backbone_arguments": {"multigrid": (4, 8, 16)},
        "auxiliary": "auxlayer.conv5.4.weight" in state,
    }


def _trunk_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        "depth": resnet_depth(state),
        "in_channels": state["conv1.0.weight"].shape[1],
        "num_classes": outputs_of(state, "fc.weight"),
    }


LAYOUTS = (
    Layout(
        "spnet/authors",
        "spnet",
        (
            *trunk_rules("pretrained.", "backbone."),
            *head_rules(),
            *neighbours("auxlayer.conv5", "auxiliary.aux.convs.0"),
            rest("auxlayer.conv5.4", "auxiliary.aux.classifier"),
        ),
        _arguments,
        SOURCE,
        goldens={"semantic/spnet-r50": Golden({"out": "forward"})},
    ),
    Layout("spnet/trunk", "resnet50_spm", (*trunk_rules(), FC), _trunk_arguments, SOURCE),
)
