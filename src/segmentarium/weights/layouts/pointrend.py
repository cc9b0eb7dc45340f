"""PointRend on semantic FPN as mmsegmentation stores it, by the stored key lists of its neck and both heads, and as the authors
do (detectron2), by their code: on Caffe's ResNet, whose pictures have blue first and a deviation of 1 of 255.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from segmentarium.preprocessing import Preprocessing
from segmentarium.weights.layouts.fpn import mmseg_head, mmseg_neck
from segmentarium.weights.layouts.parts import rest
from segmentarium.weights.layouts.resnet import (
    detectron2_conv,
    detectron2_depth,
    detectron2_rules,
    resnet_name,
    resnet_rules,
)
from segmentarium.weights.table import Layout, Rule


def point_rules(theirs: str = "decode_head.1.", ours: str = "decoder.head.") -> list[Rule]:
    """mmsegmentation's PointHead."""
    return [rest(f"{theirs}fcs.{{}}.conv", f"{ours}layers.{{}}"), rest(f"{theirs}fc_seg", f"{ours}classifier")]


def _arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        "num_classes": state["decode_head.0.conv_seg.weight"].shape[0],
        "in_channels": state["backbone.stem.0.weight"].shape[1],
        "backbone": resnet_name(state, "backbone.", deep_stem="backbone.stem.6.weight"),
        "pyramid_channels": state["neck.lateral_convs.0.conv.weight"].shape[0],
        "width": state["decode_head.0.conv_seg.weight"].shape[1],
        "point_width": state["decode_head.1.fcs.0.conv.weight"].shape[0],
        "point_layers": len({key.split(".")[3] for key in state if key.startswith("decode_head.1.fcs.")}),
    }


def _detectron2() -> list[Rule]:
    trunk, head = "backbone.bottom_up.", "sem_seg_head.coarse_sem_seg_head"
    first = Rule(f"{trunk}stem.conv1.weight", "backbone.stem.0.conv.weight", bgr=1)
    rules = [first, *detectron2_rules(trunk, "backbone.")]
    for i in range(4):
        rules += [
            rest(f"backbone.fpn_lateral{i + 2}", f"decoder.pyramid.laterals.{i}"),
            rest(f"backbone.fpn_output{i + 2}", f"decoder.pyramid.outputs.{i}"),
        ]
        for conv in range(max(i, 1)):  # upsampling between them
            rules += detectron2_conv(f"{head}.p{i + 2}.{2 * conv}", f"decoder.fuse.levels.{i}.{conv}")
    rules += [rest(f"sem_seg_head.point_head.fc{i + 1}", f"decoder.head.layers.{i}") for i in range(3)]
    points = rest("sem_seg_head.point_head.predictor", "decoder.head.classifier")
    return [*rules, rest(f"{head}.predictor", "decoder.classifier"), points]


def _detectron2_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    coarse = state["sem_seg_head.coarse_sem_seg_head.predictor.weight"]
    return {
        "num_classes": coarse.shape[0],
        "in_channels": state["backbone.bottom_up.stem.conv1.weight"].shape[1],
        "backbone": f"resnet{detectron2_depth(state, 'backbone.bottom_up.')}",
        "backbone_arguments": {"stride_first": True},
        "pyramid_channels": state["backbone.fpn_lateral2.weight"].shape[0],
        "width": coarse.shape[1],
        "groups": 32,
        "point_width": state["sem_seg_head.point_head.fc1.weight"].shape[0],
        "step_points": 8192,
    }


def _caffe(state: Mapping[str, Tensor]) -> dict[str, Any]:
    mean = tuple(value / 255 for value in (123.675, 116.28, 103.53))
    return {"preprocessing": Preprocessing(mean, (1 / 255,) * 3).as_dict()}


LAYOUTS = (
    Layout(
        "pointrend/mmseg",
        "pointrend_resnet50",
        (
            *resnet_rules("backbone.", "backbone.", stem="mmseg"),
            *mmseg_neck(),
            *mmseg_head("decode_head.0."),
            *point_rules(),
        ),
        _arguments,
        "https://github.com/open-mmlab/mmsegmentation",
    ),
    Layout(
        "pointrend/detectron2",
        "pointrend_resnet50",
        tuple(_detectron2()),
        _detectron2_arguments,
        "https://github.com/facebookresearch/detectron2",
        _caffe,
    ),
)
