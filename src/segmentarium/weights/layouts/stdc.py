"""STDC backbones and STDC-Seg as their authors and mmsegmentation store them.

mmsegmentation's tables were compared with its own networks of random weights, once.  Its detail head has two outputs where the
paper's has one, and is left out.  The authors' files hold every detail head and ImageNet's last layers, and do not tell
which were used: `detail_strides` and `final_conv` are assumed as published.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from segmentarium.weights.layouts.bisenet import context_rules, head_rules, mmseg_heads, mmseg_refinement
from segmentarium.weights.layouts.parts import conv_bn, neighbours, rest
from segmentarium.weights.table import Golden, Layout, Output, Rule

SOURCE, MMSEG = "https://github.com/MichaelFan01/STDC-Seg", "https://github.com/open-mmlab/mmsegmentation"
BLOCKS = {8: (2, 2, 2), 14: (4, 5, 3)}  # by the number of entries in `features`


def _body(theirs: str = "", ours: str = "") -> list[Rule]:
    """The layers, prefixes ending in a dot; their second names (x2, x4, …) are dropped."""
    block, mine = f"{theirs}features.{{}}", f"{ours}layers.{{}}"
    return [
        *conv_bn(f"{block}.conv_list.{{}}", f"{mine}.convs.{{}}"),
        *neighbours(f"{block}.avd_layer", f"{mine}.down"),
        *neighbours(f"{block}.skip", f"{mine}.shortcut.0"),  # of modules that add
        *neighbours(f"{block}.skip", f"{mine}.shortcut.1", 2),
        *conv_bn(block, mine),
        *(Rule(f"{theirs}x{stride}.{{*}}", None) for stride in (2, 4, 8, 16, 32)),
        Rule(f"{theirs}bn.{{}}", None),  # no output passes through it
    ]


def _blocks(state: Mapping[str, Tensor], prefix: str = "") -> tuple[int, int, int]:
    features = {key.removeprefix(prefix).split(".")[1] for key in state if key.startswith(f"{prefix}features.")}
    return BLOCKS[len(features)]


def _fusion(state: Mapping[str, Tensor], prefix: str = "") -> dict[str, Any]:
    return {"fusion": "add"} if f"{prefix}features.2.skip.0.weight" in state else {}


def _backbone_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        "blocks": _blocks(state),
        **_fusion(state),
        "in_channels": state["features.0.conv.weight"].shape[1],
        "num_classes": state["linear.weight"].shape[0],
    }


def _segmenter() -> list[Rule]:
    backbone = "cp.backbone."
    # the classifier of ImageNet lies unused in the checkpoint
    rules = [*_body(backbone, "backbone."), *context_rules("cp.", "context."), *head_rules()]
    rules += [Rule(f"{backbone}{part}.{{*}}", None) for part in ("fc", "linear")]
    rules += _unless_unused(conv_bn(f"{backbone}conv_last", "final_conv"))
    for stride in (2, 4, 8, 16):
        theirs, ours = f"conv_out_sp{stride}", f"detail.detail_{stride}"
        rules += _unless_unused([*conv_bn(f"{theirs}.conv", f"{ours}.0"), rest(f"{theirs}.conv_out", f"{ours}.1")])
    rules += conv_bn("ffm.convblk", "fusion.mix")
    return rules + [Rule(f"ffm.conv{i + 1}.weight", f"fusion.attention.{i}.conv.weight") for i in (0, 1)]


def _unless_unused(rules: list[Rule]) -> list[Rule]:
    return [replace(rule, optional=True) for rule in rules]


def _segmenter_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    read = {
        "num_classes": state["conv_out.conv_out.weight"].shape[0],
        "in_channels": state["cp.backbone.features.0.conv.weight"].shape[1],
        "backbone": "stdcnet1" if _blocks(state, "cp.backbone.") == BLOCKS[8] else "stdcnet2",
        "auxiliary": "conv_out16.conv_out.weight" in state,
    }
    if fusion := _fusion(state, "cp.backbone."):
        read["backbone_arguments"] = fusion
    return read if "conv_out_sp8.conv_out.weight" in state else {**read, "detail_strides": ()}


def _mmseg_body(blocks: tuple[int, int, int], theirs: str = "", ours: str = "") -> list[Rule]:
    """Its stages, of so many modules, which stand in one row here; prefixes ending in a dot."""
    rules = [rule for i in (0, 1) for rule in conv_bn(f"{theirs}stages.{i}", f"{ours}layers.{i}")]
    places = [(stage, block) for stage, count in enumerate(blocks, 2) for block in range(count)]
    for number, (stage, block) in enumerate(places, 2):
        module, mine = f"{theirs}stages.{stage}.{block}", f"{ours}layers.{number}"
        rules += [
            *conv_bn(f"{module}.layers.{{}}", f"{mine}.convs.{{}}"),
            *conv_bn(f"{module}.downsample", f"{mine}.down"),
        ]
    return rules


def _mmseg_segmenter(blocks: tuple[int, int, int]) -> list[Rule]:
    path = "backbone."
    rules = [*_mmseg_body(blocks, f"{path}backbone.", "backbone."), *conv_bn(f"{path}conv_avg", "context.average")]
    for index, stride in enumerate((32, 16)):
        rules += mmseg_refinement(f"{path}arms.{index}", f"context.attention{stride}")
        rules += conv_bn(f"{path}convs.{index}", f"context.refine{stride}")
    rules += conv_bn(f"{path}ffm.conv0", "fusion.mix")
    rules += [Rule(f"{path}ffm.attention.{i + 1}.conv.weight", f"fusion.attention.{i}.conv.weight") for i in (0, 1)]
    return [*rules, *mmseg_heads(), Rule("auxiliary_head.2.{*}", None)]


def _mmseg_arguments(state: Mapping[str, Tensor], backbone: str) -> dict[str, Any]:
    return {
        "num_classes": state["decode_head.conv_seg.weight"].shape[0],
        "in_channels": state["backbone.backbone.stages.0.conv.weight"].shape[1],
        "backbone": backbone,
        "auxiliary": "auxiliary_head.0.conv_seg.weight" in state,
        "head_bias": True,
        "detail_strides": (),
    }


def _mmseg_backbone_arguments(state: Mapping[str, Tensor], blocks: tuple[int, int, int]) -> dict[str, Any]:
    return {"blocks": blocks, "in_channels": state["stages.0.conv.weight"].shape[1], "num_classes": None}


def _of_mmseg(size: int, blocks: tuple[int, int, int]) -> tuple[Layout, Layout]:
    """The backbone that its converter makes of the authors', and the network."""
    return (
        Layout(
            f"stdcnet/mmseg_stdc{size}",
            "stdcnet1",
            tuple(_mmseg_body(blocks)),
            partial(_mmseg_backbone_arguments, blocks=blocks),
            MMSEG,
        ),
        Layout(
            f"stdc/mmseg_stdc{size}",
            "stdc1",
            tuple(_mmseg_segmenter(blocks)),
            partial(_mmseg_arguments, backbone=f"stdcnet{size}"),
            MMSEG,
        ),
    )


LAYOUTS = (
    Layout(
        "stdcnet/authors",
        "stdcnet1",
        (
            *_body(),
            *conv_bn("conv_last", "final_conv"),
            Rule("fc.weight", "hidden.weight"),
            Rule("linear.weight", "classifier.weight"),
        ),
        _backbone_arguments,
        SOURCE,
        goldens={
            f"realtime/{name}": Golden(
                {
                    **{f"out/feat{2 ** (i + 1)}": f"feature {i}" for i in range(5)},
                    "out/logits": "classify",
                },
                {"out_indices": (0, 1, 2, 3, 4)},
                dropped=("bn.*",),
            )
            for name in ("stdc1-backbone", "stdc2-backbone")
        },
    ),
    Layout(
        "stdc/authors",
        "stdc1",
        tuple(_segmenter()),
        _segmenter_arguments,
        SOURCE,
        goldens={
            f"realtime/{name}": Golden(
                {
                    "out/0": "forward",
                    "out/1": Output("aux_8", resized=True),
                    "out/2": Output("aux_16", resized=True),
                    "out/3": "detail_8",
                },
                dropped=(
                    *(f"cp.backbone.{part}.*" for part in ("bn", "conv_last", "fc", "linear")),
                    *(f"conv_out_sp{stride}.*" for stride in (2, 4, 16)),
                ),
            )
            for name in ("stdc1-seg", "stdc2-seg")
        },
    ),
    *_of_mmseg(1, BLOCKS[8]),
    *_of_mmseg(2, BLOCKS[14]),
)
