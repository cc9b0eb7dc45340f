"""BiSeNet V2 as CoinCheung and as mmsegmentation store it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from segmentarium.weights.table import Golden, Layout, Output, Rule

STRIDES = (4, 8, 16, 32)  # of the heads that training alone has


def _unit(theirs: str, ours: str) -> list[Rule]:
    """A convolution with its batch norm, called conv and bn."""
    return [Rule(f"{theirs}.conv.{{*}}", f"{ours}.conv.{{*}}"), Rule(f"{theirs}.bn.{{*}}", f"{ours}.norm.{{*}}")]


def _pair(theirs: str, ours: str, first: int = 0) -> list[Rule]:
    """A convolution with its batch norm, neighbours in a Sequential."""
    return [
        Rule(f"{theirs}.{first}.{{*}}", f"{ours}.conv.{{*}}"),
        Rule(f"{theirs}.{first + 1}.{{*}}", f"{ours}.norm.{{*}}"),
    ]


def _coincheung() -> list[Rule]:
    rules = _unit("detail.S1.{}", "detail.stage1.{}")
    rules += _unit("detail.S2.{}", "detail.stage2.{}") + _unit("detail.S3.{}", "detail.stage3.{}")
    rules += _unit("segment.S1S2.conv", "semantic.stem.conv") + _unit("segment.S1S2.fuse", "semantic.stem.fuse")
    rules += _unit("segment.S1S2.left.{}", "semantic.stem.left.{}")
    for stage, name in ((3, "S3"), (4, "S4"), (5, "S5_4")):
        theirs, ours = f"segment.{name}.{{}}", f"semantic.stage{stage}.{{}}"
        rules += _unit(f"{theirs}.conv1", f"{ours}.gather") + _pair(f"{theirs}.dwconv", f"{ours}.expand")
        rules += _pair(f"{theirs}.dwconv1", f"{ours}.expand.0") + _pair(f"{theirs}.dwconv2", f"{ours}.expand.1")
        rules += _pair(f"{theirs}.conv2", f"{ours}.project")
        rules += _pair(f"{theirs}.shortcut", f"{ours}.shortcut.0") + _pair(
            f"{theirs}.shortcut", f"{ours}.shortcut.1", 2
        )
    rules += [Rule("segment.S5_5.bn.{*}", "semantic.context.norm.{*}")]
    rules += _unit("segment.S5_5.conv_gap", "semantic.context.embed")
    rules += _unit("segment.S5_5.conv_last", "semantic.context.last")
    for theirs, ours in (("left1", "detail_keep"), ("right2", "semantic_keep")):
        rules += _pair(f"bga.{theirs}", f"aggregation.{ours}.0")
        rules += [Rule(f"bga.{theirs}.2.{{*}}", f"aggregation.{ours}.1.{{*}}")]
    rules += _pair("bga.left2", "aggregation.detail_down.0") + _pair("bga.right1", "aggregation.semantic_up")
    rules += _pair("bga.conv", "aggregation.fuse")
    rules += [*_unit("head.conv", "head.0"), Rule("head.conv_out.1.{*}", "head.2.{*}")]
    for theirs, stride in (("aux2", 4), ("aux3", 8), ("aux4", 16), ("aux5_4", 32)):
        rules += _unit(f"{theirs}.conv", f"boosters.aux_{stride}.conv")
        rules += _unit(f"{theirs}.conv_out.0.1", f"boosters.aux_{stride}.expand")
        rules += [Rule(f"{theirs}.conv_out.1.{{*}}", f"boosters.aux_{stride}.classifier.{{*}}")]
    return rules


def _mmseg() -> list[Rule]:
    rules: list[Rule] = []
    for stage in (1, 2, 3):
        rules += _unit(f"backbone.detail.detail_branch.{stage - 1}.{{}}", f"detail.stage{stage}.{{}}")
    stem = "backbone.semantic.stage1"
    rules += _unit(f"{stem}.conv_first", "semantic.stem.conv") + _unit(f"{stem}.fuse_last", "semantic.stem.fuse")
    rules += _unit(f"{stem}.convs.{{}}", "semantic.stem.left.{}")
    for stage in (3, 4, 5):
        # the first layer of a stage has two depthwise convolutions, the others one
        theirs, ours = f"backbone.semantic.stage{stage - 1}", f"semantic.stage{stage}"
        rules += _unit(f"{theirs}.0.dwconv.{{}}", f"{ours}.0.expand.{{}}")
        rules += _unit(f"{theirs}.{{}}.dwconv.0", f"{ours}.{{}}.expand")
        rules += _unit(f"{theirs}.{{}}.conv1", f"{ours}.{{}}.gather") + _unit(
            f"{theirs}.{{}}.conv2.0", f"{ours}.{{}}.project"
        )
        rules += _unit(f"{theirs}.{{}}.shortcut.0.depthwise_conv", f"{ours}.{{}}.shortcut.0")
        rules += _unit(f"{theirs}.{{}}.shortcut.0.pointwise_conv", f"{ours}.{{}}.shortcut.1")
    context = "backbone.semantic.stage4_CEBlock"
    rules += [Rule(f"{context}.gap.1.{{*}}", "semantic.context.norm.{*}")]
    rules += _unit(f"{context}.conv_gap", "semantic.context.embed") + _unit(
        f"{context}.conv_last", "semantic.context.last"
    )
    for theirs, ours in (("detail_dwconv", "detail_keep"), ("semantic_dwconv", "semantic_keep")):
        rules += _unit(f"backbone.bga.{theirs}.0.depthwise_conv", f"aggregation.{ours}.0")
        rules += [Rule(f"backbone.bga.{theirs}.0.pointwise_conv.conv.{{*}}", f"aggregation.{ours}.1.{{*}}")]
    rules += _unit("backbone.bga.detail_down.0", "aggregation.detail_down.0")
    rules += _unit("backbone.bga.semantic_conv.0", "aggregation.semantic_up")
    rules += _unit("backbone.bga.conv", "aggregation.fuse")
    rules += [*_unit("decode_head.convs.0", "head.0"), Rule("decode_head.conv_seg.{*}", "head.2.{*}")]
    for index, stride in enumerate(STRIDES):
        rules += _unit(f"auxiliary_head.{index}.convs.{{}}", f"boosters.aux_{stride}.{{}}")
        rules += [Rule(f"auxiliary_head.{index}.conv_seg.{{*}}", f"boosters.aux_{stride}.3.{{*}}")]
    return rules


def _coincheung_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        "num_classes": state["head.conv_out.1.weight"].shape[0],
        "in_channels": state["detail.S1.0.conv.weight"].shape[1],
        "upsample": "nearest",
        "boosters": "coincheung" if "aux2.conv.conv.weight" in state else None,
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
