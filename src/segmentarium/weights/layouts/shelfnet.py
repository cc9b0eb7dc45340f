"""ShelfNet as its authors store it: the real-time form (branch citys_lw) and the one for PASCAL (branch pascal)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from segmentarium.weights.layouts.parts import conv_bn, rest
from segmentarium.weights.layouts.resnet import resnet_name, resnet_rules
from segmentarium.weights.table import Golden, Layout, Output, Rule

SOURCE = "https://github.com/juntang-zhuang/ShelfNet"


def _block(theirs: str, ours: str) -> list[Rule]:
    """An S-block: conv1, which both halves use, bn1 and bn2."""
    norms = [rest(f"{theirs}.bn{i + 1}", f"{ours}.conv.norms.{i}") for i in range(2)]
    return [rest(f"{theirs}.conv1", f"{ours}.conv.conv"), *norms]


def _columns(theirs: str) -> list[Rule]:
    """The three columns, without what is between two levels on the way up."""
    # the first decoder's inconv is never used
    rules = [Rule(f"{theirs}decoder.inconv.{{*}}", None)]
    rules += _block(f"{theirs}decoder.bottom", "shelf.decoder.bottom")
    rules += _block(f"{theirs}ladder.inconv", "shelf.encoder.entry")
    rules += _block(f"{theirs}ladder.down_module_list.{{}}", "shelf.encoder.blocks.{}")
    rules += [rest(f"{theirs}ladder.down_conv_list.{{}}", "shelf.encoder.strided.{}.conv")]
    return rules + _block(f"{theirs}ladder.bottom", "shelf.second_decoder.bottom")


UPS = (("decoder", "shelf.decoder.ups.{}"), ("ladder", "shelf.second_decoder.ups.{}"))


def _real_time() -> list[Rule]:
    rules = resnet_rules("backbone.", "backbone.") + _columns("")
    for theirs, ours in UPS:
        rules += conv_bn(f"{theirs}.up_conv_list.{{}}.conv", f"{ours}.conv")
        rules += [rest(f"{theirs}.up_conv_list.{{}}.conv_atten", f"{ours}.attention.conv")]
        rules += [rest(f"{theirs}.up_conv_list.{{}}.bn_atten", f"{ours}.attention.norm")]
        rules += conv_bn(f"{theirs}.up_dense_list.{{}}", f"{ours}.fuse")
    for theirs, ours in (("conv_out", "head"), ("conv_out16", "auxiliary.aux_16"), ("conv_out32", "auxiliary.aux_32")):
        rules += [*conv_bn(f"{theirs}.conv", f"{ours}.0"), rest(f"{theirs}.conv_out", f"{ours}.1")]
    for i in range(3):
        rules += conv_bn(f"trans{i + 1}", f"reductions.{i}")
    return rules


def _pascal() -> list[Rule]:
    rules = [Rule("pretrained.fc.{}", None), *resnet_rules("pretrained.", "backbone."), *_columns("head.")]
    for theirs, ours in UPS:
        rules += [rest(f"head.{theirs}.up_conv_list.{{}}", f"{ours}.conv")]
        rules += _block(f"head.{theirs}.up_dense_list.{{}}", f"{ours}.block")
    for i in range(4):
        rules += [rest(f"head.conv{i + 1}", f"reductions.{i}.conv"), rest(f"head.bn{i + 1}", f"reductions.{i}.norm")]
    rules += [rest("head.final", "classifier"), rest("head.selayer", "presence")]
    rules += [rest("auxlayer.conv5.0", "auxiliary.0.conv"), rest("auxlayer.conv5.1", "auxiliary.0.norm")]
    return [*rules, rest("auxlayer.conv5.4", "auxiliary.2")]


def _real_time_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        "num_classes": state["conv_out.conv_out.weight"].shape[0],
        "in_channels": state["backbone.conv1.weight"].shape[1],
        "backbone": resnet_name(state, "backbone."),
        "width": state["ladder.inconv.bn1.weight"].shape[0],
        "dropout": 0.1 if "trans1.conv.weight" in state else 0.0,
    }


def _pascal_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        "num_classes": state["head.final.weight"].shape[0],
        "in_channels": state["pretrained.conv1.weight"].shape[1],
        "backbone": resnet_name(state, "pretrained."),
        "width": state["head.ladder.inconv.bn1.weight"].shape[0],
        "auxiliary": "head.selayer.weight" in state and "auxlayer.conv5.4.weight" in state,
    }


LAYOUTS = (
    Layout(
        "shelfnet/citys",
        "shelfnet18",
        tuple(_real_time()),
        _real_time_arguments,
        SOURCE,
        goldens={
            f"realtime/{name}": Golden(
                {
                    "out/0": "forward",
                    "out/1": Output("aux_16", resized=True),
                    "out/2": Output("aux_32", resized=True),
                },
                dropped=("*decoder.inconv*",),
            )
            for name in ("shelfnet18", "shelfnet34")
        },
    ),
    Layout(
        "shelfnet/pascal",
        "shelfnet50",
        tuple(_pascal()),
        _pascal_arguments,
        SOURCE,
        goldens={
            "realtime/shelfnet50": Golden(
                {"out/0": "forward", "out/1": "presence", "out/2": Output("aux_16", resized=True)},
                dropped=("*decoder.inconv*", "pretrained.fc.*"),
            )
        },
    ),
)
