"""FANet as its authors store it: the network for training, and the one for testing speed, without auxiliary heads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from segmentarium.weights.layouts.parts import conv_bn
from segmentarium.weights.layouts.resnet import resnet_name, resnet_rules
from segmentarium.weights.table import Golden, Layout, Rule

SOURCE = "https://github.com/feinanshan/FANet"
PARTS = (
    ("w_qs", "attention.query"),
    ("w_ks", "attention.key"),
    ("w_vs", "attention.value"),
    ("latlayer3", "attention.project"),
    ("up", "up"),
    ("smooth", "smooth"),
)


def _head(theirs: str, ours: str) -> list[Rule]:
    return [*conv_bn(f"{theirs}.conv", f"{ours}.0"), Rule(f"{theirs}.conv_out.{{}}", f"{ours}.1.{{}}")]


def _levels(prefix: str) -> list[Rule]:
    # convolutions that the public network has and never uses
    rules = [Rule(f"{prefix}_4.up.{{*}}", None), Rule(f"{prefix}_8.smooth.{{*}}", None)]
    for stride in (4, 8, 16, 32):
        for theirs, ours in PARTS:
            rules += conv_bn(f"{prefix}_{stride}.{theirs}", f"level{stride}.{ours}")
    return resnet_rules("resnet.", "backbone.") + rules


def _training() -> list[Rule]:
    rules = conv_bn("ffm_32.smooth", "auxiliary.aux_32.0") + _head("clslayer_32", "auxiliary.aux_32.1")
    rules += _head("clslayer_16", "auxiliary.aux_16") + _head("clslayer_8", "head")
    return rules + _levels("ffm")


def _testing() -> list[Rule]:
    return [Rule("fam_32.smooth.{*}", None), *_levels("fam"), *_head("clslayer", "head")]


def _arguments(state: Mapping[str, Tensor], classifier: str) -> dict[str, Any]:
    return {
        "num_classes": state[f"{classifier}.conv_out.weight"].shape[0],
        "in_channels": state["resnet.conv1.weight"].shape[1],
        "backbone": resnet_name(state, "resnet."),
        "auxiliary": classifier == "clslayer_8",
    }


LAYOUTS = (
    Layout(
        "fanet/training",
        "fanet18",
        tuple(_training()),
        lambda state: _arguments(state, "clslayer_8"),
        SOURCE,
        goldens={
            "realtime/fanet18-train": Golden(
                {"out/logits": "forward", "out/aux16": "aux_16", "out/aux32": "aux_32"},
                dropped=("ffm_4.up.*", "ffm_8.smooth.*"),
            )
        },
    ),
    Layout(
        "fanet/testing",
        "fanet18",
        tuple(_testing()),
        lambda state: _arguments(state, "clslayer"),
        SOURCE,
        goldens={
            "realtime/fanet18": Golden({"out": "logits"}, dropped=("fam_4.up.*", "fam_8.smooth.*", "fam_32.smooth.*"))
        },
    ),
)
