"""What training does to scans: flips, turns, scales, noise, objects moved and pasted, all with boxes, poses and maps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch

from segmentarium.data.base import Sample
from segmentarium.data.poses import pose_matrix
from segmentarium.data.scans import Scan, ScanDataset, inputs_of, target_of
from segmentarium.layers.turned_boxes import inside_boxes, iou_from_above


def transformed(
    scan: Scan,
    *,
    mirror_x: bool = False,
    mirror_y: bool = False,
    turn: float = 0.0,
    scale: float = 1.0,
    shift: Sequence[float] = (0.0, 0.0, 0.0),
) -> Scan:
    """The scan as of a mirrored, then turned (radians, about the vertical), then scaled, then shifted (metres) world.

    mirror_x   x becomes -x; mirror_y the same for y

    The pose is changed so that the map, drawn by it, follows.
    """
    change = np.diag((scale, scale, scale, 1.0)) @ pose_matrix(
        (math.cos(turn / 2), 0, 0, math.sin(turn / 2)), (0, 0, 0)
    )
    change = change @ np.diag((-1.0 if mirror_x else 1.0, -1.0 if mirror_y else 1.0, 1.0, 1.0))
    change[:3, 3] = shift
    points, boxes = scan.points.copy(), scan.boxes.copy()
    points[:, :3] = points[:, :3] @ change[:3, :3].T + change[:3, 3]
    boxes[:, :3] = boxes[:, :3] @ change[:3, :3].T + change[:3, 3]
    boxes[:, 3:6] *= scale
    angle = boxes[:, 6]
    angle = math.pi - angle if mirror_x else angle
    boxes[:, 6] = (-angle if mirror_y else angle) + turn
    if boxes.shape[1] == 9:
        boxes[:, 7:9] = boxes[:, 7:9] @ change[:2, :2].T
    pose = None if scan.pose is None else scan.pose @ np.linalg.inv(change)
    return replace(scan, points=points, boxes=boxes, pose=pose)


def _inside(points: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(N, M) bool"""
    return inside_boxes(torch.from_numpy(points[:, :3]).float(), torch.from_numpy(boxes[:, :7]).float()).numpy()


def _clear(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(M,) whether each box overlaps none of the others, seen from above."""
    if not len(others):
        return np.ones(len(boxes), bool)
    overlap = iou_from_above(torch.from_numpy(boxes[:, :7]).float(), torch.from_numpy(others[:, :7]).float())
    return (overlap == 0).all(1).numpy()


def moved_objects(scan: Scan, distance: float = 0.25, turn: float = math.pi / 20) -> Scan:
    """Each object with its points moved by a normal distance along each axis and turned by an even angle up to `turn`, where it
    then overlaps no other (PointPillars, section 3.2)."""
    points, boxes = scan.points.copy(), scan.boxes.copy()
    inside = _inside(points, boxes)
    for i in range(len(boxes)):
        shift, angle = torch.randn(3).numpy() * distance, (2 * float(torch.rand(())) - 1) * turn
        wanted = boxes[i].copy()
        wanted[:3] += shift
        wanted[6] += angle
        if not _clear(wanted[None], np.delete(boxes, i, 0))[0]:
            continue
        mine = inside[:, i]
        local = points[mine, :3] - boxes[i, :3]
        cos, sin = math.cos(angle), math.sin(angle)
        local[:, :2] = local[:, :2] @ np.array(((cos, sin), (-sin, cos)))
        points[mine, :3] = local + wanted[:3]
        boxes[i] = wanted
    return replace(scan, points=points, boxes=boxes)


class Object(NamedTuple):
    """An object cut out of a scan: its box, and its points as they were there."""

    box: np.ndarray
    points: np.ndarray


class ObjectBank:
    """Objects of a data set by class, to be pasted into other scans (SECOND's ground-truth sampling).

    least   points that an object must have
    """

    def __init__(self, dataset: ScanDataset, least: int = 5) -> None:
        self.objects: list[list[Object]] = [[] for _ in range(dataset.info.num_classes)]
        for index in range(len(dataset)):
            scan = dataset.load(index)
            inside = _inside(scan.points, scan.boxes)
            for i, label in enumerate(scan.labels):
                if inside[:, i].sum() >= least:
                    self.objects[label].append(Object(scan.boxes[i].copy(), scan.points[inside[:, i]].copy()))

    def fill(self, scan: Scan, wanted: Sequence[int]) -> Scan:
        """The scan with objects pasted where they stood in their own, until it has `wanted` of each class or none fits: they
        overlap nothing, and what points were there are taken away."""
        boxes, labels, pasted = [scan.boxes], [scan.labels], []
        for label, (objects, count) in enumerate(zip(self.objects, wanted, strict=True)):
            missing = min(count - int((scan.labels == label).sum()), len(objects))
            for place in torch.randperm(len(objects))[: max(missing, 0)].tolist():
                found = objects[place]
                alike = found.points.shape[1] == scan.points.shape[1] and len(found.box) == scan.boxes.shape[1]
                if alike and _clear(found.box[None], np.concatenate(boxes))[0]:
                    boxes.append(found.box[None])
                    labels.append(np.array([label]))
                    pasted.append(found.points)
        if not pasted:
            return scan
        covered = _inside(scan.points, np.concatenate(boxes[1:])).any(1)
        counted = None if scan.counted is None else np.concatenate((scan.counted, np.ones(len(pasted), bool)))
        points = np.concatenate((scan.points[~covered], *pasted))
        return replace(scan, points=points, boxes=np.concatenate(boxes), labels=np.concatenate(labels), counted=counted)


@dataclass
class TrainScan:
    """A sample {"scan", "name"} -> {"points", "boxes", "name"}, and "map" where `raster` draws it; everything drawn from torch.

    flip            half of the scans mirrored along y, and half along x where `all_round`
    turn            greatest turn in degrees; scale: range of the factor; shift: of the whole scan along each axis, standard
                    deviation in metres (PointPillars, section 3.2: 0.2)
    noise           of points, standard deviation in metres
    object_noise    objects are moved and turned each by itself
    bank, wanted    objects to paste until there are so many of each class
    """

    in_channels: int
    raster: Callable[[Scan], np.ndarray] | None = None
    flip: bool = True
    all_round: bool = True
    turn: float = 45.0
    scale: tuple[float, float] = (0.95, 1.05)
    shift: float = 0.0
    noise: float = 0.0
    object_noise: bool = False
    bank: ObjectBank | None = None
    wanted: Sequence[int] = ()

    def __call__(self, sample: Sample) -> Sample:
        scan: Scan = sample["scan"]
        if self.bank is not None:
            scan = self.bank.fill(scan, self.wanted)
        if self.object_noise:
            scan = moved_objects(scan)
        mirror_y, mirror_x, turn, scale = torch.rand(4).tolist()
        scan = transformed(
            scan,
            mirror_x=self.flip and self.all_round and mirror_x < 0.5,
            mirror_y=self.flip and mirror_y < 0.5,
            turn=math.radians(self.turn) * (2 * turn - 1),
            scale=self.scale[0] + scale * (self.scale[1] - self.scale[0]),
            shift=(torch.randn(3) * self.shift).tolist() if self.shift else (0.0, 0.0, 0.0),
        )
        if self.noise:
            scan.points[:, :3] += torch.randn(len(scan.points), 3).numpy() * self.noise
        return {"name": sample["name"], "boxes": target_of(scan), **inputs_of(scan, self.in_channels, self.raster)}
