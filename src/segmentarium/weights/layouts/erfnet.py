"""ERFNet as its authors store it, whose file holds the encoder's own classifier too, and as mmsegmentation does.

mmsegmentation's was compared with its own network of random weights, once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from segmentarium.preprocessing import Preprocessing
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


def _mmseg() -> list[Rule]:
    def block(theirs: str, ours: str) -> list[Rule]:
        places = {0: "conv1.0", 2: "conv1.2", 3: "norm1", 5: "conv2.0", 7: "conv2.2", 8: "norm2"}
        return [Rule(f"{theirs}.convs_layers.{i}.{{}}", f"{ours}.{name}.{{}}") for i, name in places.items()]

    rules = []
    for number, place in enumerate((0, 1, 7), 1):
        rules += conv_bn(f"backbone.encoder.{place}", f"encoder.down{number}")
    for stage, first, count in ((2, 2, 5), (3, 8, 8)):
        for index in range(count):
            rules += block(f"backbone.encoder.{first + index}", f"encoder.stage{stage}.{index}")
    for number, first in ((1, 0), (2, 3)):
        rules += [
            Rule(f"backbone.decoder.{first}.conv.{{}}", f"up{number}.up.{{}}"),
            Rule(f"backbone.decoder.{first}.bn.{{}}", f"up{number}.norm.{{}}"),
        ]
        for index in range(2):
            rules += block(f"backbone.decoder.{first + 1 + index}", f"stage{3 + number}.{index}")
    return [
        *rules,
        *conv_bn("decode_head.convs.0", "classifier.0"),
        Rule("decode_head.conv_seg.{}", "classifier.1.{}"),
    ]


def _mmseg_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    width, first = state["decode_head.convs.0.conv.weight"], state["backbone.encoder.0.conv.weight"]
    return {
        "num_classes": state["decode_head.conv_seg.weight"].shape[0],
        "in_channels": first.shape[1],
        "head_channels": width.shape[0],
    }


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
    Layout(
        "erfnet/mmseg",
        "erfnet",
        tuple(_mmseg()),
        _mmseg_arguments,
        "https://github.com/open-mmlab/mmsegmentation",
        facts=lambda state: {"preprocessing": Preprocessing().as_dict()},
    ),
)
