"""SFNet and SFNet-Lite as their authors store them, on ResNets with a deep stem and on DF1 and DF2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from segmentarium.weights.layouts.parts import neighbours, rest
from segmentarium.weights.layouts.resnet import block_rules, resnet_depth
from segmentarium.weights.table import Golden, Layout, Rule

SOURCE = "https://github.com/lxtGH/SFSegNets"
DF_STAGES = {1: ("2", "3", "4", "5"), 2: ("2_1", "2_2", "3_1", "3_2", "4_1", "4_2")}


def _resnet() -> list[Rule]:
    rules = []
    for i in range(3):
        norm = f"layer0.0.{3 * i + 1}" if i < 2 else "layer0.1"
        rules += [rest(f"layer0.0.{3 * i}", f"backbone.stem.{i}.conv"), rest(norm, f"backbone.stem.{i}.norm")]
    return rules + block_rules("", "backbone.")


def _df(variant: int) -> list[Rule]:
    rules = neighbours("backbone.stage1", "backbone.stem.0") + neighbours("backbone.stage1", "backbone.stem.1", 3)
    for index, stage in enumerate(DF_STAGES[variant]):
        theirs, ours = f"backbone.stage{stage}.{{}}", f"backbone.stages.{index}.{{}}"
        for i in (1, 2):
            rules += [
                rest(f"{theirs}.conv{i}", f"{ours}.conv{i}.conv"),
                rest(f"{theirs}.bn{i}", f"{ours}.conv{i}.norm"),
            ]
        rules += neighbours(f"{theirs}.downsample", f"{ours}.shortcut")
    return rules


def _ends() -> list[Rule]:
    rules = neighbours("head.ppm.stages.{}", "context.stages.{}", 1) + neighbours("head.ppm.bottleneck", "context.fuse")
    return [*rules, *neighbours("head.conv_last.0", "fuse"), rest("head.conv_last.1", "classifier")]


ALIGNMENT = (("down_h", "high"), ("down_l", "low"), ("flow_make", "flow"))


def _pyramid() -> list[Rule]:
    rules = _ends() + neighbours("head.fpn_in.{}", "laterals.{}") + neighbours("head.fpn_out.{}.0", "outputs.{}")
    rules += [rest(f"head.fpn_out_align.{{}}.{theirs}", f"alignments.{{}}.{ours}") for theirs, ours in ALIGNMENT]
    rules += neighbours("head.dsn.{}", "auxiliary.aux_{}.0")
    return [*rules, rest("head.dsn.{}.4", "auxiliary.aux_{}.2")]


def _lite() -> list[Rule]:
    rules = _ends() + neighbours("head.fpn_in.0", "lateral4") + neighbours("head.fpn_in.1", "lateral16")
    rules += [rest(f"head.flow_align_module.{theirs}", f"alignment.{ours}") for theirs, ours in ALIGNMENT]
    rules += [rest("head.flow_align_module.flow_gate.0", "alignment.gate")]
    # the lateral convolution of 1/32 and the head for training are never used
    return [*rules, Rule("head.fpn_in.2.{*}", None), Rule("head.dsn.{*}", None)]


def _common(state: Mapping[str, Tensor], first: str) -> dict[str, Any]:
    return {
        "num_classes": state["head.conv_last.1.weight"].shape[0],
        "in_channels": state[first].shape[1],
        "channels": state["head.conv_last.1.weight"].shape[1],
    }


def _resnet_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        **_common(state, "layer0.0.0.weight"),
        "backbone": f"resnet{resnet_depth(state)}_v1s",
        "auxiliary": "head.dsn.0.0.weight" in state,
    }


def _df_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return {**_common(state, "backbone.stage1.0.weight"), "auxiliary": "head.dsn.0.0.weight" in state}


def _lite_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    channels = state["head.conv_last.1.weight"].shape[1]
    return {
        **_common(state, "layer0.0.0.weight"),
        "backbone": f"resnet{resnet_depth(state)}_v1s",
        "gate": "feature" if state["head.flow_align_module.flow_gate.0.weight"].shape[1] == channels else "pooled",
    }


LAYOUTS = (
    Layout(
        "sfnet/resnet",
        "sfnet_resnet18",
        (*_resnet(), *_pyramid()),
        _resnet_arguments,
        SOURCE,
        goldens={
            "realtime/sfnet-r18": Golden(
                {
                    "out/logits": "forward",
                    "out/head4": "logits",
                    # theirs go from deep to shallow
                    "out/aux0": "aux_2",
                    "out/aux1": "aux_1",
                    "out/aux2": "aux_0",
                }
            )
        },
    ),
    Layout("sfnet/df1", "sfnet_df1", (*_df(1), *_pyramid()), _df_arguments, SOURCE),
    Layout("sfnet/df2", "sfnet_df2", (*_df(2), *_pyramid()), _df_arguments, SOURCE),
    Layout("sfnet/lite", "sfnet_lite_resnet18", (*_resnet(), *_lite()), _lite_arguments, SOURCE),
)
