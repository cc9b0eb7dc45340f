"""BiSeNet V2 as CoinCheung, today and in 2020, and as mmsegmentation store it.

The table of 2020 rests on that code (`bisenetv2/bisenetv2.py`); it aligned corners, which no key tells.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from segmentarium.weights.layouts.parts import conv_bn, neighbours
from segmentarium.weights.table import Golden, Layout, Output, Rule

STRIDES = (4, 8, 16, 32)  # of the heads that training alone has
BOOSTERS = dict(zip(("aux2", "aux3", "aux4", "aux5_4"), STRIDES, strict=True))


def _coincheung_branches() -> list[Rule]:
    rules = conv_bn("detail.S1.{}", "detail.stage1.{}")
    rules += conv_bn("detail.S2.{}", "detail.stage2.{}") + conv_bn("detail.S3.{}", "detail.stage3.{}")
    rules += conv_bn("segment.S1S2.conv", "semantic.stem.conv") + conv_bn("segment.S1S2.fuse", "semantic.stem.fuse")
    rules += conv_bn("segment.S1S2.left.{}", "semantic.stem.left.{}")
    for stage, name in ((3, "S3"), (4, "S4"), (5, "S5_4")):
        theirs, ours = f"segment.{name}.{{}}", f"semantic.stage{stage}.{{}}"
        rules += conv_bn(f"{theirs}.conv1", f"{ours}.gather") + neighbours(f"{theirs}.dwconv", f"{ours}.expand")
        rules += neighbours(f"{theirs}.dwconv1", f"{ours}.expand.0") + neighbours(
            f"{theirs}.dwconv2", f"{ours}.expand.1"
        )
        rules += neighbours(f"{theirs}.conv2", f"{ours}.project")
        rules += neighbours(f"{theirs}.shortcut", f"{ours}.shortcut.0") + neighbours(
            f"{theirs}.shortcut", f"{ours}.shortcut.1", 2
        )
    rules += [Rule("segment.S5_5.bn.{*}", "semantic.context.norm.{*}")]
    rules += conv_bn("segment.S5_5.conv_gap", "semantic.context.embed")
    rules += conv_bn("segment.S5_5.conv_last", "semantic.context.last")
    for theirs, ours in (("left1", "detail_keep"), ("right2", "semantic_keep")):
        rules += neighbours(f"bga.{theirs}", f"aggregation.{ours}.0")
        rules += [Rule(f"bga.{theirs}.2.{{*}}", f"aggregation.{ours}.1.{{*}}")]
    rules += neighbours("bga.left2", "aggregation.detail_down.0") + neighbours("bga.right1", "aggregation.semantic_up")
    return [*rules, *neighbours("bga.conv", "aggregation.fuse"), *conv_bn("head.conv", "head.0")]


def _coincheung() -> list[Rule]:
    rules = [*_coincheung_branches(), Rule("head.conv_out.1.{*}", "head.2.{*}")]
    for theirs, stride in BOOSTERS.items():
        rules += conv_bn(f"{theirs}.conv", f"boosters.aux_{stride}.conv")
        rules += conv_bn(f"{theirs}.conv_out.0.1", f"boosters.aux_{stride}.expand")
        rules += [Rule(f"{theirs}.conv_out.1.{{*}}", f"boosters.aux_{stride}.classifier.{{*}}")]
    return rules


def _coincheung_2020() -> list[Rule]:
    rules = [*_coincheung_branches(), Rule("head.conv_out.{}", "head.2.{}")]
    for theirs, stride in BOOSTERS.items():
        ours = f"boosters.aux_{stride}"
        rules += [*conv_bn(f"{theirs}.conv", f"{ours}.0"), Rule(f"{theirs}.conv_out.{{}}", f"{ours}.2.{{}}")]
    return rules


def _mmseg() -> list[Rule]:
    rules: list[Rule] = []
    for stage in (1, 2, 3):
        rules += conv_bn(f"backbone.detail.detail_branch.{stage - 1}.{{}}", f"detail.stage{stage}.{{}}")
    stem = "backbone.semantic.stage1"
    rules += conv_bn(f"{stem}.conv_first", "semantic.stem.conv") + conv_bn(f"{stem}.fuse_last", "semantic.stem.fuse")
    rules += conv_bn(f"{stem}.convs.{{}}", "semantic.stem.left.{}")
    for stage in (3, 4, 5):
        # the first layer of a stage has two depthwise convolutions, the others one
        theirs, ours = f"backbone.semantic.stage{stage - 1}", f"semantic.stage{stage}"
        rules += conv_bn(f"{theirs}.0.dwconv.{{}}", f"{ours}.0.expand.{{}}")
        rules += conv_bn(f"{theirs}.{{}}.dwconv.0", f"{ours}.{{}}.expand")
        rules += conv_bn(f"{theirs}.{{}}.conv1", f"{ours}.{{}}.gather") + conv_bn(
            f"{theirs}.{{}}.conv2.0", f"{ours}.{{}}.project"
        )
        rules += conv_bn(f"{theirs}.{{}}.shortcut.0.depthwise_conv", f"{ours}.{{}}.shortcut.0")
        rules += conv_bn(f"{theirs}.{{}}.shortcut.0.pointwise_conv", f"{ours}.{{}}.shortcut.1")
    context = "backbone.semantic.stage4_CEBlock"
    rules += [Rule(f"{context}.gap.1.{{*}}", "semantic.context.norm.{*}")]
    rules += conv_bn(f"{context}.conv_gap", "semantic.context.embed") + conv_bn(
        f"{context}.conv_last", "semantic.context.last"
    )
    for theirs, ours in (("detail_dwconv", "detail_keep"), ("semantic_dwconv", "semantic_keep")):
        rules += conv_bn(f"backbone.bga.{theirs}.0.depthwise_conv", f"aggregation.{ours}.0")
        rules += [Rule(f"backbone.bga.{theirs}.0.pointwise_conv.conv.{{*}}", f"aggregation.{ours}.1.{{*}}")]
    rules += conv_bn("backbone.bga.detail_down.0", "aggregation.detail_down.0")
    rules += conv_bn("backbone.bga.semantic_conv.0", "aggregation.semantic_up")
    rules += conv_bn("backbone.bga.conv", "aggregation.fuse")
    rules += [*conv_bn("decode_head.convs.0", "head.0"), Rule("decode_head.conv_seg.{*}", "head.2.{*}")]
    for index, stride in enumerate(STRIDES):
        rules += conv_bn(f"auxiliary_head.{index}.convs.{{}}", f"boosters.aux_{stride}.{{}}")
        rules += [Rule(f"auxiliary_head.{index}.conv_seg.{{*}}", f"boosters.aux_{stride}.3.{{*}}")]
    return rules


def _coincheung_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        "num_classes": state["head.conv_out.1.weight"].shape[0],
        "in_channels": state["detail.S1.0.conv.weight"].shape[1],
        "upsample": "nearest",
        "boosters": "coincheung" if "aux2.conv.conv.weight" in state else None,
    }


def _coincheung_2020_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        "num_classes": state["head.conv_out.weight"].shape[0],
        "in_channels": state["detail.S1.0.conv.weight"].shape[1],
        "align_corners": True,
        "boosters": "coincheung_2020" if "aux2.conv_out.weight" in state else None,
    }


def _mmseg_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        "num_classes": state["decode_head.conv_seg.weight"].shape[0],
        "in_channels": state["backbone.detail.detail_branch.0.0.conv.weight"].shape[1],
        "pointwise_bias": True,
        "boosters": "mmseg" if "auxiliary_head.0.conv_seg.weight" in state else None,
    }


LAYOUTS = (
    Layout(
        "bisenetv2/coincheung",
        "bisenetv2",
        tuple(_coincheung()),
        _coincheung_arguments,
        "https://github.com/CoinCheung/BiSeNet",
        goldens={
            "realtime/bisenetv2-coincheung-aux": Golden(
                {
                    "out/0": "forward",
                    **{f"out/{i + 1}": Output(f"aux_{stride}", resized=True) for i, stride in enumerate(STRIDES)},
                }
            ),
            "realtime/bisenetv2-coincheung-eval": Golden({"out/0": "forward"}),
        },
    ),
    Layout(
        "bisenetv2/coincheung_2020",
        "bisenetv2",
        tuple(_coincheung_2020()),
        _coincheung_2020_arguments,
        "https://github.com/CoinCheung/BiSeNet",
    ),
    Layout(
        "bisenetv2/mmseg",
        "bisenetv2",
        tuple(_mmseg()),
        _mmseg_arguments,
        "https://github.com/open-mmlab/mmsegmentation",
        goldens={
            "realtime/bisenetv2-mmseg": Golden(
                {"out/logits": "logits", **{f"out/aux{i}": f"aux_{stride}" for i, stride in enumerate(STRIDES)}}
            )
        },
    ),
)
