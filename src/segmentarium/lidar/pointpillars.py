"""PointPillars: points in vertical columns become a picture, and boxes are found in it as in any picture.

A small network describes each point by its offsets from its pillar's middle and from the mean of the pillar's points; the
greatest of each feature over a pillar is a pixel.  SECOND's trunk and neck run over that, and a 1×1 convolution scores two
anchors a class, along and across, in each cell.

What the public code does and the paper does not say: anchors are matched by overlap after turning boxes to the nearest axis; each
box keeps its best anchor; angles are compared by the sine of their difference, and a second output says which way round; empty
places of a pillar's table take part in the greatest; x and y (in mmdetection3d from 1.0 on z, too) are overwritten by the offsets
from the pillar's centre.
On nuScenes mmdetection3d's networks share their anchors among the classes, give speeds, and describe points by two layers; one
has a feature pyramid with anchors of one, two and four times the size on its levels.
What we change: pillars take all points unless `max_points` says otherwise; centres of boxes are their middle in z, too.

Published (mmdetection3d): KITTI val, moderate, 3-D AP R11, three classes, 64.07 on average; nuScenes val mAP 34.33, and with the
pyramid 39.71.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from segmentarium.contracts import Term
from segmentarium.layers.init import init_classifier
from segmentarium.layers.turned_boxes import as_in_earlier_code
from segmentarium.lidar.bev import BevDetector, sorted_candidates
from segmentarium.lidar.pillars import Grid, PillarEncoder
from segmentarium.losses.anchor_boxes import AnchorBoxes, decode
from segmentarium.registry import Card, Paper, register

KITTI_AREA = (0.0, -39.68, -3.0, 69.12, 39.68, 1.0)
# length, width, height, z of the floor, overlaps from which on and below which an anchor is for a box and for none
PEDESTRIAN = (0.8, 0.6, 1.73, -0.6, 0.5, 0.35)
CYCLIST = (1.76, 0.6, 1.73, -0.6, 0.5, 0.35)
CAR = (3.9, 1.6, 1.56, -1.78, 0.6, 0.45)
KITTI_CLASSES = ("pedestrian", "cyclist", "car")
ANGLES = (0.0, 1.57)
_ALIKE = (0.6, 0.3)
# arguments of mmdetection3d's two networks for nuScenes, which read the time and not the intensity
NUSCENES: dict[str, Any] = {
    "num_classes": 10,
    "in_channels": 5,
    "columns": [0, 1, 2, 4],
    "area": [-50.0, -50.0, -5.0, 50.0, 50.0, 3.0],
    "cell": [0.25, 0.25],
    "anchors": [
        [4.60718145, 1.95017717, 1.72270761, -1.80032795, *_ALIKE],
        [6.73778078, 2.4560939, 2.73004906, -1.74440365, *_ALIKE],
        [12.01320693, 2.87427237, 3.81509561, -1.68526504, *_ALIKE],
        [1.68452161, 0.60058911, 1.27192197, -1.67339111, *_ALIKE],
        [0.7256437, 0.66344886, 1.75748069, -1.61785072, *_ALIKE],
        [0.40359262, 0.39694519, 1.06232151, -1.80984986, *_ALIKE],
        [0.48578221, 2.49008838, 0.98297065, -1.763965, *_ALIKE],
    ],
    "anchor_area": [-49.6, -49.6, 49.6, 49.6],
    "shared_anchors": True,
    "velocity": True,
    "start": -math.pi / 4,
    "box_weight": 1.0,
    "encoder_widths": [64, 64],
    "halved": False,
    "replaced": False,
    "candidates": 1000,
}
NUSCENES_PYRAMID: dict[str, Any] = {
    **NUSCENES,
    "neck": "pyramid",
    "neck_width": 256,
    "anchors": [
        [*size, -1.8, *_ALIKE] for size in ((2.5981, 0.866, 1.0), (1.7321, 0.5774, 1.0), (1.0,) * 3, (0.4, 0.4, 1.0))
    ],
    "anchor_area": None,
}


class PointPillars(BevDetector):
    """Points (B, N, F) -> candidates: of the `candidates` best anchors each class's score and box.

    num_classes              K; 3 are KITTI's pedestrian, cyclist, car
    in_channels              F: x, y, z and further values
    area, cell               metres: what is looked at, and the sides x, y of a pillar
    anchors                  a class each: length, width, height, z of its floor, and the overlaps from which on an anchor stands
                             for a box and below which for none; None: KITTI's, or a car's for every class
    shared_anchors           anchors, any number of them, are of no class, and stand for a box of any
    anchor_area              least x, y and greatest x, y over which anchors stand evenly; None: the area
    velocity                 boxes have a speed
    start                    angle at which the half circle of direction 0 begins; None: -pi/2, or 0 if `earlier`
    box_weight               of the boxes' loss
    widths, depths, strides  of the trunk's stages; neck_width: of each feature in the neck
    neck, columns            see `BevDetector`; on each further level of a pyramid anchors are twice as large
    encoder_widths           of the layers that describe points
    centre_axes, replaced, halved, max_points, max_pillars   see `PillarEncoder`
    earlier                  boxes and angles inside as in mmdetection3d before 1.0; what comes out is the same
    candidates               anchors that are looked at, of each level
    """

    threshold, overlap, most = 0.1, 0.01, 50

    def __init__(
        self,
        *,
        num_classes: int = 3,
        in_channels: int = 4,
        area: Sequence[float] = KITTI_AREA,
        cell: Sequence[float] = (0.16, 0.16),
        anchors: Sequence[Sequence[float]] | None = None,
        shared_anchors: bool = False,
        anchor_area: Sequence[float] | None = None,
        velocity: bool = False,
        start: float | None = None,
        box_weight: float = 2.0,
        widths: Sequence[int] = (64, 128, 256),
        depths: Sequence[int] = (3, 5, 5),
        strides: Sequence[int] = (2, 2, 2),
        neck: Literal["second", "pyramid"] = "second",
        neck_width: int = 128,
        columns: Sequence[int] | None = None,
        encoder_widths: Sequence[int] = (64,),
        centre_axes: int = 3,
        replaced: bool = True,
        halved: bool = True,
        max_points: int | None = None,
        max_pillars: int | None = None,
        earlier: bool = False,
        candidates: int = 100,
    ) -> None:
        low_x, low_y, low_z, high_x, high_y, high_z = area
        grid = Grid((low_x, low_y, low_z, high_x, high_y, high_z), (cell[0], cell[1], high_z - low_z))
        encoder = PillarEncoder(
            grid,
            in_channels if columns is None else len(columns),
            encoder_widths,
            centre_axes=centre_axes,
            replaced=replaced,
            halved=halved,
            max_points=max_points,
            max_pillars=max_pillars,
        )
        factors, factor = [], 1
        for i in range(len(strides)):
            factor *= strides[i] if i else 1
            factors.append(factor)
        super().__init__(
            num_classes=num_classes,
            in_channels=in_channels,
            area=area,
            cell=cell,
            encoder=encoder,
            widths=widths,
            depths=depths,
            strides=strides,
            neck_width=neck_width,
            factors=factors,
            neck=neck,
            columns=columns,
        )
        if anchors is None:
            anchors = (PEDESTRIAN, CYCLIST, CAR) if num_classes == 3 else (CAR,) * num_classes
        if (len(anchors) != num_classes and not shared_anchors) or any(
            len(anchor) != 6 or min(anchor[:3]) <= 0 for anchor in anchors
        ):
            raise ValueError(
                f"anchors is {anchors}; give for each of {num_classes} classes length, width, height (above 0), z of the "
                "floor, and two overlaps; or shared_anchors=True with anchors of no class"
            )
        if num_classes == 3:
            self.classes = KITTI_CLASSES
        self.earlier, self.candidates = earlier, candidates
        self.start = start if start is not None else 0.0 if earlier else -math.pi / 2
        number, numbers = len(anchors) * len(ANGLES), 9 if velocity else 7
        levels = [
            self._anchors(anchors, stride, 2**i, anchor_area or (*area[:2], *area[3:5]))
            for i, stride in enumerate(self.feature_strides)
        ]
        self.register_buffer("anchors", torch.tensor(np.concatenate(levels)), persistent=False)
        self.level_anchors = [len(level) for level in levels]
        self.score = init_classifier(nn.Conv2d(self.feature_channels, number * num_classes, 1))
        nn.init.constant_(self.score.bias, -math.log((1 - 0.01) / 0.01))  # type: ignore[arg-type]
        self.box = init_classifier(nn.Conv2d(self.feature_channels, number * numbers, 1))
        self.direction = init_classifier(nn.Conv2d(self.feature_channels, number * 2, 1))
        kinds = torch.tensor([k for k in range(len(anchors)) for _ in ANGLES]).repeat(len(self.anchors) // number)
        loss = AnchorBoxes(
            self.anchors,
            kinds,
            [anchor[4] for anchor in anchors],
            [anchor[5] for anchor in anchors],
            start=self.start,
            earlier=earlier,
            shared=shared_anchors,
            velocity=velocity,
        )
        weights = {"class": 1.0, "box": box_weight, "direction": 0.2}
        self.map_names = tuple(name for part in ("scores", "codes", "directions") for name in self._of_levels(part))
        self.set_objective(Term("anchors", weights, loss, of=self.map_names, on="boxes", at="as is", classes=False))

    anchors: Tensor

    def _of_levels(self, name: str) -> list[str]:
        """An output's name on each level."""
        return [name if not i else f"{name}_{i}" for i in range(len(self.feature_strides))]

    def _anchors(
        self, anchors: Sequence[Sequence[float]], stride: int, factor: int, area: Sequence[float]
    ) -> np.ndarray:
        """(cells * anchors * angles, 7) of a level, in the order y, x, anchor, angle, at the middles of even cells."""
        height, width = (side // stride for side in self.grid.shape[1:])
        # by NumPy, as these operators without numbers (`meta.py`) would import PyTorch's compiler
        x = area[0] + (np.arange(width, dtype=np.float32) + 0.5) * ((area[2] - area[0]) / width)
        y = area[1] + (np.arange(height, dtype=np.float32) + 0.5) * ((area[3] - area[1]) / height)
        sides = (1, 0) if self.earlier else (0, 1)  # which come first
        sizes = np.array([[a[sides[0]], a[sides[1]], a[2]] for a in anchors], np.float32) * factor
        found = np.empty((height, width, len(anchors), len(ANGLES), 7), np.float32)
        found[..., 0] = x[:, None, None]
        found[..., 1] = y[:, None, None, None]
        found[..., 2] = (np.array([a[3] for a in anchors], np.float32) + sizes[:, 2] / 2)[:, None]
        found[..., 3:6] = sizes[:, None]
        found[..., 6] = ANGLES
        return found.reshape(-1, 7)

    def outputs(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """[(B, C, h, w), …] -> of each level per cell and anchor: scores K, codes 7 or 9, directions 2, as channels, the anchor
        counting first."""
        found = {}
        for name, head in (("scores", self.score), ("codes", self.box), ("directions", self.direction)):
            found |= {key: head(x) for key, x in zip(self._of_levels(name), features, strict=True)}
        return found

    def decode(self, outputs: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        found = []
        for i, anchors in enumerate(self.anchors.split(self.level_anchors)):
            count = len(anchors)
            scores, codes, directions = (
                outputs[self._of_levels(name)[i]].permute(0, 2, 3, 1).flatten(1).unflatten(1, (count, -1))
                for name in ("scores", "codes", "directions")
            )
            best = scores.amax(2).topk(min(self.candidates, count), 1).indices[..., None]
            scores, codes, directions = (
                x.gather(1, best.expand(-1, -1, x.shape[-1])) for x in (scores, codes, directions)
            )
            boxes = decode(codes, anchors[best[..., 0]])
            angle = torch.remainder(boxes[..., 6] - self.start, math.pi) + self.start + math.pi * directions.argmax(2)
            found.append((torch.cat((boxes[..., :6], angle[..., None], boxes[..., 7:]), 2), scores))
        boxes, scores = (torch.cat(parts, 1) for parts in zip(*found, strict=True))
        if self.earlier:
            boxes = as_in_earlier_code(boxes)
        # every class of an anchor is a candidate
        boxes = boxes[:, :, None].expand(-1, -1, self.num_classes, -1).flatten(1, 2)
        labels = torch.arange(self.num_classes, device=scores.device).expand(scores.shape).flatten(1)
        return sorted_candidates(boxes, labels, scores.flatten(1))


PAPER = Paper(
    title="PointPillars: Fast Encoders for Object Detection from Point Clouds",
    authors="Lang, Vora, Caesar, Zhou, Yang, Beijbom",
    venue="CVPR",
    year=2019,
    url="https://arxiv.org/abs/1812.05784",
    code="https://github.com/open-mmlab/mmdetection3d",
    code_licence="Apache-2.0",
)
# the same code on a few cells
TINY = {
    "area": [0.0, -5.12, -3.0, 10.24, 5.12, 1.0],
    "cell": [0.32, 0.32],
    "widths": [8, 8, 16],
    "depths": [1, 1, 1],
    "neck_width": 8,
    "encoder_widths": [8],
}
register(
    "pointpillars",
    PointPillars,
    Card(paper=PAPER, num_classes=3, scores={"KITTI val 3-D AP R11, moderate, mean of three classes": 64.07}),
    tiny=TINY,
)
