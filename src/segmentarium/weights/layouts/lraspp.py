"""LR-ASPP on MobileNetV3 as torchvision and as mmsegmentation store it; the latter rests on its code."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from segmentarium.weights.layouts.mobilenet_v3 import mmseg_rules, torchvision_rules
from segmentarium.weights.layouts.parts import conv_bn, neighbours
from segmentarium.weights.table import Layout, Rule


def _torchvision_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        "num_classes": state["classifier.high_classifier.weight"].shape[0],
        "in_channels": state["backbone.0.0.weight"].shape[1],
        "decoder_channels": state["classifier.cbr.0.weight"].shape[0],
    }


def _mmseg_head() -> list[Rule]:
    return [
        *conv_bn("decode_head.aspp_conv", "decoder.aspp.conv"),
        Rule("decode_head.image_pool.1.conv.weight", "decoder.aspp.gate.weight"),
        Rule("decode_head.conv_up_input.{}", "decoder.mix.{}"),
        *(Rule(f"decode_head.convs.conv{i}.weight", f"decoder.reduce.{i}.weight") for i in (0, 1)),
        *(rule for i in (0, 1) for rule in conv_bn(f"decode_head.conv_ups.conv_up{i}", f"decoder.join.{i}")),
        Rule("decode_head.conv_seg.{}", "decoder.classifier.{}"),
    ]


def _mmseg_arguments(last: str, state: Mapping[str, Tensor]) -> dict[str, Any]:
    state[f"backbone.{last}.conv.weight"]  # the other size's keys end here
    return {
        "num_classes": state["decode_head.conv_seg.weight"].shape[0],
        "in_channels": state["backbone.layer0.conv.weight"].shape[1],
        "decoder_channels": state["decode_head.aspp_conv.conv.weight"].shape[0],
        "branch_channels": tuple(state[f"decode_head.convs.conv{i}.weight"].shape[0] for i in (0, 1)),
    }


LAYOUTS = (
    Layout(
        "lraspp/torchvision",
        "lraspp",
        (
            *torchvision_rules("large", "backbone.", "backbone."),
            *neighbours("classifier.cbr", "decoder.aspp.conv"),
            Rule("classifier.scale.1.weight", "decoder.aspp.gate.weight"),
            Rule("classifier.low_classifier.{}", "decoder.fine_classifier.{}"),
            Rule("classifier.high_classifier.{}", "decoder.classifier.{}"),
        ),
        _torchvision_arguments,
        "https://github.com/pytorch/vision",
    ),
    *(
        Layout(
            f"lraspp_mobilenet_v3_{arch}/mmseg",
            f"lraspp_mobilenet_v3_{arch}",
            (*mmseg_rules(arch, "backbone.", "backbone."), *_mmseg_head()),
            partial(_mmseg_arguments, last),
            "https://github.com/open-mmlab/mmsegmentation",
        )
        for arch, last in (("large", "layer16"), ("small", "layer12"))
    ),
)
