"""ERFNet as its authors store it; their file holds the encoder's own classifier too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from segmentarium.weights.layouts.parts import conv_bn
from segmentarium.weights.table import Golden, Layout, Rule


def _block(theirs: str, ours: str) -> list[Rule]:
    rules = []
    for number in (1, 2):
        rules += [
            Rule(f"{theirs}.conv3x1_{number}.{{}}", f"{ours}.conv{number}.0.{{}}"),
            Rule(f"{theirs}.conv1x3_{number}.{{}}", f"{ours}.conv{number}.2.{{}}"),
            Rule(f"{theirs}.bn{number}.{{}}", f"{ours}.norm{number}.{{}}"),
        ]
    return rules


def _rules() -> tuple[Rule, ...]:
    rules = conv_bn("encoder.initial_block", "encoder.down1")
    rules += conv_bn("encoder.layers.0", "encoder.down2") + conv_bn("encoder.layers.6", "encoder.down3")
    for stage, first, count in ((2, 1, 5), (3, 7, 8)):
        for index in range(count):
            rules += _block(f"encoder.layers.{first + index}", f"encoder.stage{stage}.{index}")
    for number, first in ((1, 0), (2, 3)):
        rules += [
            Rule(f"decoder.layers.{first}.conv.{{}}", f"up{number}.up.{{}}"),
            Rule(f"decoder.layers.{first}.bn.{{}}", f"up{number}.norm.{{}}"),
        ]
        for index in range(2):
            rules += _block(f"decoder.layers.{first + 1 + index}", f"stage{3 + number}.{index}")
    rules += [
        Rule("encoder.output_conv.{}", "encoder_head.{}"),
        Rule("decoder.output_conv.{}", "classifier.{}"),
    ]
    return tuple(rules)


def _arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        "num_classes": state["decoder.output_conv.bias"].shape[0],
        "in_channels": state["encoder.initial_block.conv.weight"].shape[1],
        "encoder_head": "encoder.output_conv.weight" in state,
    }


LAYOUTS = (
    Layout(
        "erfnet/eromera",
        "erfnet",
        _rules(),
        _arguments,
        "https://github.com/Eromera/erfnet_pytorch",
        goldens={"realtime/erfnet": Golden({"out/0": "forward", "out/1": "encoder"})},
    ),
)
