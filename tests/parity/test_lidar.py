"""PointPillars and CenterPoint against stored outputs of their public code: pillars, maps, anchors, boxes, losses, gradients."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from segmentarium.layers.turned_boxes import as_in_earlier_code
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
    assert relative_error(features.mean((2, 3)), stored(arrays, "out/neck_mean")) <= TOLERANCE
    assert relative_error(features[:, :8, :8, :8], stored(arrays, "out/neck_block")) <= TOLERANCE
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
    with on_meta():
        keys = to_theirs(create_model("centerpoint_pillar").state_dict(), get_layout("centerpoint/mmdet3d").rules)
    # by mmdetection3d's code
    assert keys["pts_bbox_head.task_heads.5.heatmap.1.weight"].shape == (2, 64, 3, 3)
    assert keys["pts_bbox_head.task_heads.0.reg.0.bn.running_mean"].shape == (64,)
    assert keys["pts_voxel_encoder.pfn_layers.0.linear.weight"].shape == (64, 11)
    assert keys["pts_neck.deblocks.0.0.weight"].shape == (128, 64, 2, 2)
    assert keys["pts_backbone.blocks.2.15.weight"].shape == (256, 256, 3, 3)
