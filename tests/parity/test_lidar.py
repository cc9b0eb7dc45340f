"""PointPillars and CenterPoint against stored outputs of their public code: pillars, maps, anchors, boxes, losses, gradients."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import deform_conv2d

from segmentarium.layers.deformable_conv import DeformableConv
from segmentarium.layers.turned_boxes import as_in_earlier_code
from segmentarium.lidar.pointpillars import NUSCENES, NUSCENES_PYRAMID
from segmentarium.losses.anchor_boxes import decode
from segmentarium.losses.centres import centre_focal, centre_l1
from segmentarium.meta import on_meta
from segmentarium.registry import create_model
from segmentarium.weights.layouts import get_layout, recognise
from segmentarium.weights.table import load_state, to_theirs
from tests.parity.comparison import TOLERANCE, as_theirs, golden_state, relative_error


def loaded(golden: ModuleType, name: str, layout_name: str, **arguments: object) -> tuple[object, dict, Tensor]:
    """Our model with the golden's weights, its arrays, and its points as a batch of one."""
    state, description, arrays = golden_state(golden, name)
    layout = get_layout(layout_name)
    assert recognise(state) is layout
    model = create_model(layout.model, **{**layout.arguments(state), **arguments}).eval()
    report = load_state(model, state, rules=layout.rules)
    assert report.complete
    assert report.dropped == []
    back = to_theirs(model.state_dict(), layout.rules)
    assert all(torch.equal(back[key], value) for key, value in state.items())
    assert sum(p.numel() for p in model.parameters()) == description["parameters"]
    points = torch.from_numpy(arrays["target/points/0"]).float()[None]
    return model, arrays, points


def stored(arrays: dict, name: str) -> Tensor:
    return torch.from_numpy(np.asarray(arrays[name]))


@torch.inference_mode()
def test_pointpillars_equals_the_public_code(golden: ModuleType) -> None:
    area = [0, -5.12, -3, 7.68, 5.12, 1]
    model, arrays, points = loaded(golden, "lidar/pointpillars", "pointpillars/zhulf0804", area=area)
    canvas = model.canvas(points)
    assert relative_error(canvas.sum((2, 3)), stored(arrays, "out/pillar_features_sum")) <= TOLERANCE
    assert int((canvas.abs().sum(1) > 0).sum()) <= len(arrays["target/coords"])
    outputs = model.outputs(model.features(canvas))
    for ours, theirs in (("scores", "cls"), ("codes", "reg"), ("directions", "dir")):
        assert relative_error(outputs[ours], stored(arrays, f"out/{theirs}")) <= TOLERANCE
    anchors = stored(arrays, "out/anchors").reshape(-1, 7).float()
    centred = anchors.clone()
    centred[:, 2] += anchors[:, 5] / 2  # theirs stand on their floor
    assert relative_error(model.anchors, centred) <= 1e-6
    boxes = decode(outputs["codes"].permute(0, 2, 3, 1).reshape(-1, 7), model.anchors)
    boxes[:, 2] -= boxes[:, 5] / 2
    assert relative_error(boxes, stored(arrays, "out/boxes_of_first")) <= TOLERANCE
    found, _, scores = model(points)
    best = outputs["scores"].permute(0, 2, 3, 1).reshape(-1, 3).amax(1).argmax()
    again = as_in_earlier_code(found[0, :1])[:, :6]  # the angle is turned to its half circle
    boxes[:, 2] += boxes[:, 5] / 2
    assert relative_error(again, boxes[best, None, :6]) <= 1e-5
    assert (scores.diff(dim=1) <= 0).all()
    # the same weights folded
    deployed = model.deploy()
    for ours, theirs in zip(deployed(points), (found, scores), strict=False):
        assert ours.shape[1] == theirs.shape[1]
    assert relative_error(deployed(points)[2], scores) <= TOLERANCE


@torch.inference_mode()
def test_centerpoint_equals_the_authors_code(golden: ModuleType) -> None:
    area = [-9.6, -6.4, -5.0, 9.6, 6.4, 3.0]
    model, arrays, points = loaded(golden, "lidar/centerpoint-pillar", "centerpoint/tianweiy", area=area)
    canvas = model.canvas(points)
    coords = stored(arrays, "target/coords").long()
    pillars = canvas[0, :, coords[:, 2], coords[:, 3]].T
    assert relative_error(pillars, stored(arrays, "out/pillar_features")) <= TOLERANCE
    assert int((canvas.abs().sum(1) > 0).sum()) == len(coords)
    features = model.features(canvas)
    (neck,) = features
    assert relative_error(neck.mean((2, 3)), stored(arrays, "out/neck_mean")) <= TOLERANCE
    assert relative_error(neck[:, :8, :8, :8], stored(arrays, "out/neck_block")) <= TOLERANCE
    outputs = model.outputs(features)
    for name, ours in outputs.items():
        assert relative_error(ours, stored(arrays, f"out/{name}")) <= TOLERANCE, name


def test_centerpoint_s_losses_and_gradients_equal_the_authors(golden: ModuleType) -> None:
    description, arrays = golden.load("lidar/centerpoint-loss")
    hm, box = (
        torch.from_numpy(golden.example_input(name, tuple(description["inputs"][name]))).requires_grad_()
        for name in ("hm", "box")
    )
    target = {name: stored(arrays, f"target/{name}") for name in ("hm", "ind", "mask", "cat", "box")}
    heatmap = centre_focal(hm, target["hm"], target["ind"], target["mask"], target["cat"])
    elements = centre_l1(box, target["box"], target["ind"], target["mask"])
    location = (elements * torch.tensor([1.0] * 6 + [0.2] * 2 + [1.0] * 2)).sum()
    total = heatmap + 0.25 * location
    total.backward()
    ours = {"hm": heatmap, "box_elements": elements, "loc": location, "total": total}
    for name, value in ours.items():
        assert relative_error(value.detach(), stored(arrays, f"out/{name}")) <= TOLERANCE, name
    for name, given in (("hm", hm), ("box", box)):
        assert given.grad is not None
        assert relative_error(given.grad, stored(arrays, f"grad/total/{name}")) <= TOLERANCE, name


def test_mmdetection3d_s_files_are_recognised() -> None:
    as_theirs("pointpillars/mmdet3d", "pointpillars", max_points=32)
    as_theirs("centerpoint/mmdet3d", "centerpoint_pillar", max_points=20)
    as_theirs("centerpoint/mmdet3d_dcn", "centerpoint_pillar", max_points=20, deformable=True)
    as_theirs("pointpillars/mmdet3d_nuscenes", "pointpillars", **NUSCENES)
    as_theirs("pointpillars/mmdet3d_nuscenes_fpn", "pointpillars", **NUSCENES_PYRAMID)
    with on_meta():
        keys = to_theirs(create_model("centerpoint_pillar").state_dict(), get_layout("centerpoint/mmdet3d").rules)
    # by mmdetection3d's code
    assert keys["pts_bbox_head.task_heads.5.heatmap.1.weight"].shape == (2, 64, 3, 3)
    assert keys["pts_bbox_head.task_heads.0.reg.0.bn.running_mean"].shape == (64,)
    assert keys["pts_voxel_encoder.pfn_layers.0.linear.weight"].shape == (64, 11)
    assert keys["pts_neck.deblocks.0.0.weight"].shape == (128, 64, 2, 2)
    assert keys["pts_backbone.blocks.2.15.weight"].shape == (256, 256, 3, 3)
    with on_meta():
        dcn = create_model("centerpoint_pillar", deformable=True).state_dict()
        second, pyramid = (create_model("pointpillars", **form).state_dict() for form in (NUSCENES, NUSCENES_PYRAMID))
    keys = to_theirs(dcn, get_layout("centerpoint/mmdet3d_dcn").rules)
    head = "pts_bbox_head.task_heads.1"
    assert keys[f"{head}.feature_adapt_cls.weight"].shape == (64, 16, 3, 3)  # four groups
    assert keys[f"{head}.feature_adapt_reg.conv_offset.bias"].shape == (18,)
    assert keys[f"{head}.cls_head.1.weight"].shape == (2, 64, 3, 3)
    assert keys[f"{head}.task_head.vel.0.bn.running_var"].shape == (64,)
    keys = to_theirs(second, get_layout("pointpillars/mmdet3d_nuscenes").rules)
    assert keys["pts_voxel_encoder.vfe_layers.0.linear.weight"].shape == (64, 10)
    assert keys["pts_voxel_encoder.vfe_layers.1.linear.weight"].shape == (64, 128)
    assert keys["pts_neck.deblocks.2.0.weight"].shape == (256, 128, 4, 4)
    assert keys["pts_bbox_head.conv_reg.weight"].shape == (7 * 2 * 9, 384, 1, 1)
    keys = to_theirs(pyramid, get_layout("pointpillars/mmdet3d_nuscenes_fpn").rules)
    assert keys["pts_neck.lateral_convs.2.conv.weight"].shape == (256, 256, 1, 1)
    assert keys["pts_neck.fpn_convs.1.bn.weight"].shape == (256,)
    assert keys["pts_bbox_head.conv_cls.bias"].shape == (4 * 2 * 10,)
    assert keys["pts_bbox_head.conv_dir_cls.bias"].shape == (4 * 2 * 2,)


@torch.no_grad()
def test_deformable_convolution_is_torchvision_s() -> None:
    """With moves of a few cells, over the map's edges too, in groups; and gradients alike."""
    torch.manual_seed(0)
    conv = DeformableConv(8, 12, groups=4)
    x = torch.randn(2, 8, 9, 7)
    assert relative_error(conv(x), F.conv2d(x, conv.weight, padding=1, groups=4)) <= 1e-5  # at first a plain one
    conv.offset.weight.normal_(std=0.3)
    conv.offset.bias.normal_(std=1.5)
    moves = conv.offset(x)
    assert moves.abs().max() > 4
    assert relative_error(conv(x), deform_conv2d(x, moves, conv.weight, padding=1)) <= 1e-5
    gradients = []
    for theirs in (False, True):
        with torch.enable_grad():
            given = x.clone().requires_grad_()
            found = deform_conv2d(given, conv.offset(given), conv.weight, padding=1) if theirs else conv(given)
            gradients.append(torch.autograd.grad(found.square().sum(), (given, conv.weight, conv.offset.weight)))
    for ours, theirs in zip(*gradients, strict=True):
        assert relative_error(ours, theirs) <= 1e-4


@torch.no_grad()
def test_nuscenes_anchors_and_codes_by_mmdetection3d_s_rules() -> None:
    """The aligned generator's places, written out: range by range, a level each, with sizes that double."""
    for form, first in ((NUSCENES, (4.60718145, 1.95017717, 1.72270761)), (NUSCENES_PYRAMID, (2.5981, 0.866, 1.0))):
        small = {"widths": [8, 8, 8], "depths": [1, 1, 1], "neck_width": 8, "encoder_widths": [8]}
        model = create_model("pointpillars", **form | small)
        reach = 49.6 if form["anchor_area"] else 50.0
        start = 0
        for level, stride in enumerate(model.feature_strides):
            side, kinds = 400 // stride, len(form["anchors"])
            anchors = model.anchors[start : start + side * side * kinds * 2].reshape(side, side, kinds, 2, 7)
            start += side * side * kinds * 2
            cell = 2 * reach / side
            factor = 2**level
            wanted = torch.tensor([-reach + 2.5 * cell, -reach + 1.5 * cell, 0, *(v * factor for v in first), 1.57])
            wanted[2] = form["anchors"][0][3] + factor * first[2] / 2
            assert torch.allclose(anchors[1, 2, 0, 1], wanted, atol=1e-4)
        assert start == len(model.anchors)
