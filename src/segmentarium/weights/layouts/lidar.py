"""PointPillars and CenterPoint on pillars as mmdetection3d (from 1.0 on) and the public repositories store them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from segmentarium.lidar.pointpillars import NUSCENES, NUSCENES_PYRAMID
from segmentarium.weights.layouts.parts import conv_bn, neighbours
from segmentarium.weights.table import Layout, Rule


def _trunk(state: Mapping[str, Tensor], prefix: str, first: int, step: int) -> dict[str, Any]:
    """Widths and depths of the stages that stand under PREFIX{stage}.{place}, a convolution at every `step`-th place."""
    stages: dict[int, list[int]] = {}
    widths: dict[int, int] = {}
    for key, tensor in state.items():
        if key.startswith(prefix) and tensor.ndim == 4:
            stage, place = map(int, key[len(prefix) :].split(".")[:2])
            stages.setdefault(stage, []).append((place - first) // step)
            widths[stage] = tensor.shape[0]
    if sorted(stages) != list(range(len(stages))):
        raise KeyError(prefix)
    order = sorted(stages)
    return {
        "widths": [widths[i] for i in order],
        "depths": [max(stages[i]) for i in order],
        "strides": [2] * len(order),
    }


MOST = 6  # convolutions of a stage in the tables


def _trunk_rules(trunk: str, first: int) -> list[Rule]:
    """The trunk's stages, convolution, norm and ReLU in a row from place `first` on."""
    rules: list[Rule] = []
    for i in range(MOST):
        rules += neighbours(f"{trunk}.{{}}", f"trunk.stages.{{}}.{i}", first + 3 * i)
    return rules


def _common(trunk: str, neck: str, first: int) -> list[Rule]:
    """The trunk's stages, and the neck's parts."""
    return [*_trunk_rules(trunk, first), *neighbours(f"{neck}.{{}}", "neck.parts.{}")]


def _point_layer(theirs: str) -> list[Rule]:
    return [
        Rule(f"{theirs}.linear.{{}}", "encoder.layers.{}.linear.{}"),
        Rule(f"{theirs}.norm.{{}}", "encoder.layers.{}.norm.{}"),
    ]


def _pillars_kitti(state: Mapping[str, Tensor], trunk: str, neck: str, encoder: str, head: str) -> dict[str, Any]:
    """Of KITTI's networks: three classes, four values a point."""
    score, code = state[f"{head}cls.weight"].shape[0], state[f"{head}reg.weight"].shape[0]
    columns = state[encoder].shape[1]
    return {
        "num_classes": score // (code // 7),
        "in_channels": 4,
        "centre_axes": columns - 7,
        "encoder_widths": [state[encoder].shape[0]],
        "neck_width": state[f"{neck}0.0.weight"].shape[1],
        "max_points": 32,
        "max_pillars": 40000,
        **_trunk(state, trunk, 0, 3),
    }


def _centre(state: Mapping[str, Tensor], trunk: str, first: int, encoder: str, head: str, heat: str) -> dict[str, Any]:
    """Of nuScenes' networks: five values a point."""
    layers = sum(key.startswith(encoder) and key.endswith("linear.weight") for key in state)
    widths = [state[f"{encoder}{i}.linear.weight"].shape[0] * (1 if i == layers - 1 else 2) for i in range(layers)]
    tasks = []
    while f"{head}{len(tasks)}.{heat}" in state:
        tasks.append(state[f"{head}{len(tasks)}.{heat}"].shape[0])
    return {
        "num_classes": sum(tasks),
        "tasks": tasks,
        "in_channels": 5,
        "centre_axes": state[f"{encoder}0.linear.weight"].shape[1] - 8,
        "encoder_widths": widths,
        "max_points": 20,
        **_trunk(state, trunk, first, 3),
    }


def _pillars_nuscenes(state: Mapping[str, Tensor], base: Mapping[str, Any]) -> dict[str, Any]:
    """Of nuScenes' two networks with anchors."""
    layers = sum(key.endswith("linear.weight") for key in state)
    neck = "fpn_convs.0.bn" if base.get("neck") == "pyramid" else "deblocks.0.1"
    return {
        **base,
        "encoder_widths": [state[f"pts_voxel_encoder.vfe_layers.{i}.linear.weight"].shape[0] for i in range(layers)],
        "neck_width": state[f"pts_neck.{neck}.weight"].shape[0],
        "max_points": 64,
        "max_pillars": 40000,
        **_trunk(state, "pts_backbone.blocks.", 0, 3),
    }


# in the order of mmdetection3d's networks with anchors; those of CenterPoint go by its tasks
NUSCENES_CLASSES = (
    "car", "truck", "trailer", "bus", "construction_vehicle", "bicycle", "motorcycle", "pedestrian", "traffic_cone", "barrier",
)  # fmt: skip


def _zhulf(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        **_pillars_kitti(
            state, "backbone.multi_blocks.", "neck.decoder_blocks.", "pillar_encoder.conv.weight", "head.conv_"
        ),
        "earlier": True,
    }


def _mmdet3d_pillars(state: Mapping[str, Tensor]) -> dict[str, Any]:
    encoder = "voxel_encoder.pfn_layers.0.linear.weight"
    return _pillars_kitti(state, "backbone.blocks.", "neck.deblocks.", encoder, "bbox_head.conv_")


def _tianweiy(state: Mapping[str, Tensor]) -> dict[str, Any]:
    found = _centre(state, "neck.blocks.", 1, "reader.pfn_layers.", "bbox_head.tasks.", "hm.3.weight")
    return {
        **found,
        "neck_width": state["neck.deblocks.0.0.weight"].shape[0],
        "head_width": state["bbox_head.shared_conv.0.weight"].shape[0],
        "head_bias": True,
        "earlier": True,
        "max_pillars": 60000,
    }


def _mmdet3d_centre(state: Mapping[str, Tensor], heat: str = "heatmap") -> dict[str, Any]:
    encoder, head = "pts_voxel_encoder.pfn_layers.", "pts_bbox_head.task_heads."
    return {
        **_centre(state, "pts_backbone.blocks.", 0, encoder, head, f"{heat}.1.weight"),
        **({"deformable": True} if heat == "cls_head" else {}),
        "neck_width": state["pts_neck.deblocks.0.0.weight"].shape[0],
        "head_width": state["pts_bbox_head.shared_conv.conv.weight"].shape[0],
        "max_pillars": 40000,
    }


ANCHOR_HEADS = {"cls": "score", "reg": "box", "dir_cls": "direction"}
CENTRE_HEADS = {"reg": "offset", "height": "height", "dim": "size", "rot": "angle", "vel": "speed", "hm": "heatmap"}


def _authors_heads() -> list[Rule]:
    rules = []
    for theirs, ours in CENTRE_HEADS.items():
        theirs, ours = f"bbox_head.tasks.{{}}.{theirs}", f"tasks.{{}}.{ours}"
        rules += [*neighbours(theirs, f"{ours}.0"), Rule(f"{theirs}.3.{{}}", f"{ours}.1.{{}}")]
    return rules


DEFORMABLE = {"feature_adapt_reg": "adapt_box", "feature_adapt_cls": "adapt_class"}


def _mmdet3d_deformable_heads() -> list[Rule]:
    """DCNSeparateHead: the heat map's convolutions and the boxes' under names of their own, a deformable one before each."""
    rules = []
    for theirs, ours in DEFORMABLE.items():
        theirs, ours = f"pts_bbox_head.task_heads.{{}}.{theirs}", f"tasks.{{}}.{ours}"
        rules += [
            Rule(f"{theirs}.weight", f"{ours}.weight"),
            Rule(f"{theirs}.conv_offset.{{}}", f"{ours}.offset.{{}}"),
        ]
    for theirs, ours in CENTRE_HEADS.items():
        theirs = f"pts_bbox_head.task_heads.{{}}.{'cls_head' if theirs == 'hm' else f'task_head.{theirs}'}"
        rules += [
            *conv_bn(f"{theirs}.0", f"tasks.{{}}.{ours}.0"),
            Rule(f"{theirs}.1.{{}}", f"tasks.{{}}.{ours}.1.{{}}"),
        ]
    return rules


def _mmdet3d_heads() -> list[Rule]:
    rules = []
    for theirs, ours in CENTRE_HEADS.items():
        theirs = f"pts_bbox_head.task_heads.{{}}.{'heatmap' if theirs == 'hm' else theirs}"
        rules += [
            *conv_bn(f"{theirs}.0", f"tasks.{{}}.{ours}.0"),
            Rule(f"{theirs}.1.{{}}", f"tasks.{{}}.{ours}.1.{{}}"),
        ]
    return rules


MMDET3D = "https://github.com/open-mmlab/mmdetection3d"
_NUSCENES_RULES = (
    Rule("pts_voxel_encoder.vfe_layers.{}.linear.{}", "encoder.layers.{}.linear.{}"),
    Rule("pts_voxel_encoder.vfe_layers.{}.norm.{}", "encoder.layers.{}.norm.{}"),
    *(Rule(f"pts_bbox_head.conv_{theirs}.{{}}", f"{ours}.{{}}") for theirs, ours in ANCHOR_HEADS.items()),
)
_CENTRE_RULES = (
    *_point_layer("pts_voxel_encoder.pfn_layers.{}"),
    *_common("pts_backbone.blocks", "pts_neck.deblocks", 0),
    *conv_bn("pts_bbox_head.shared_conv", "shared"),
)
LAYOUTS = (
    Layout(
        "pointpillars/zhulf0804",
        "pointpillars",
        (
            Rule("pillar_encoder.conv.weight", "encoder.layers.0.linear.weight", theirs_ndim=3),
            Rule("pillar_encoder.bn.{}", "encoder.layers.0.norm.{}"),
            *_common("backbone.multi_blocks", "neck.decoder_blocks", 0),
            *(Rule(f"head.conv_{theirs}.{{}}", f"{ours}.{{}}") for theirs, ours in ANCHOR_HEADS.items()),
        ),
        _zhulf,
        "https://github.com/zhulf0804/PointPillars",
    ),
    Layout(
        "pointpillars/mmdet3d",
        "pointpillars",
        (
            *_point_layer("voxel_encoder.pfn_layers.{}"),
            *_common("backbone.blocks", "neck.deblocks", 0),
            *(Rule(f"bbox_head.conv_{theirs}.{{}}", f"{ours}.{{}}") for theirs, ours in ANCHOR_HEADS.items()),
        ),
        _mmdet3d_pillars,
        MMDET3D,
    ),
    Layout(
        "pointpillars/mmdet3d_nuscenes",
        "pointpillars",
        (*_NUSCENES_RULES, *_common("pts_backbone.blocks", "pts_neck.deblocks", 0)),
        partial(_pillars_nuscenes, base=NUSCENES),
        MMDET3D,
        lambda state: {"classes": list(NUSCENES_CLASSES)},
    ),
    Layout(
        "pointpillars/mmdet3d_nuscenes_fpn",
        "pointpillars",
        (
            *_NUSCENES_RULES,
            *_trunk_rules("pts_backbone.blocks", 0),
            *conv_bn("pts_neck.lateral_convs.{}", "neck.laterals.{}"),
            *conv_bn("pts_neck.fpn_convs.{}", "neck.outputs.{}"),
        ),
        partial(_pillars_nuscenes, base=NUSCENES_PYRAMID),
        MMDET3D,
        lambda state: {"classes": list(NUSCENES_CLASSES)},
    ),
    Layout(
        "centerpoint/tianweiy",
        "centerpoint_pillar",
        (
            *_point_layer("reader.pfn_layers.{}"),
            *_common("neck.blocks", "neck.deblocks", 1),
            *neighbours("bbox_head.shared_conv", "shared"),
            *_authors_heads(),
        ),
        _tianweiy,
        "https://github.com/tianweiy/CenterPoint",
    ),
    Layout("centerpoint/mmdet3d", "centerpoint_pillar", (*_CENTRE_RULES, *_mmdet3d_heads()), _mmdet3d_centre, MMDET3D),
    Layout(
        "centerpoint/mmdet3d_dcn",
        "centerpoint_pillar",
        (*_CENTRE_RULES, *_mmdet3d_deformable_heads()),
        partial(_mmdet3d_centre, heat="cls_head"),
        MMDET3D,
    ),
)
