"""DFANet as huaifeng1993 stores it.  `decoder.conv4` is in the file and used by nobody: its attention map goes through conv5."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from segmentarium.weights.layouts.parts import neighbours
from segmentarium.weights.table import Golden, Layout, Rule


def _rules() -> tuple[Rule, ...]:
    rules = neighbours("encoder.conv1", "stem")
    theirs, ours = "encoder.branch{}.{}.build.{}", "networks.{}.{}.{}"
    for index in range(3):
        a, b = f"{theirs}.conv{index + 1}", f"{ours}.convs.{index}"
        rules += [
            Rule(f"{a}.0.conv1.{{}}", f"{b}.depthwise.{{}}"),
            Rule(f"{a}.0.pointwise.{{}}", f"{b}.pointwise.conv.{{}}"),
            Rule(f"{a}.1.{{}}", f"{b}.pointwise.norm.{{}}"),
        ]
    rules += [
        Rule(f"{theirs}.projection.{{}}", f"{ours}.shortcut.{{}}"),
        Rule("encoder.branch{}.atten.fc.0.{}", "networks.{}.attention.connect.{}"),
        Rule("encoder.branch{}.atten.fc.2.{}", "networks.{}.attention.reduce.{}"),
    ]
    for index in range(3):
        rules += neighbours(f"decoder.conv{index}", f"decoder.shallow.{index}")
    rules += neighbours("decoder.conv3", "decoder.deep.0") + neighbours("decoder.conv5", "decoder.deep.1")
    rules += neighbours("decoder.conv_add1", "decoder.fuse")
    return (*rules, Rule("decoder.conv_cls.{}", "decoder.classifier.{}"), Rule("decoder.conv4.{*}", None))


def _arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    stages = ("enc2", "enc3", "enc4")
    blocks = {name: {key.split(".")[4] for key in state if f"branch0.{name}." in key} for name in stages}
    return {
        "num_classes": state["decoder.conv_cls.weight"].shape[0],
        "in_channels": state["encoder.conv1.0.weight"].shape[1],
        "widths": tuple(state[f"encoder.branch0.{name}.build.0.projection.weight"].shape[0] for name in stages),
        "depths": tuple(len(blocks[name]) for name in stages),
        "decoder_channels": state["decoder.conv_cls.weight"].shape[1],
    }


LAYOUTS = (
    Layout(
        "dfanet/huaifeng1993",
        "dfanet",
        _rules(),
        _arguments,
        "https://github.com/huaifeng1993/DFANet",
        goldens={"realtime/dfanet": Golden({"out": "forward"}, dropped=("decoder.conv4.*",))},
    ),
)
