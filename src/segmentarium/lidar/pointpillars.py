"""PointPillars: points in vertical columns become a picture, and boxes are found in it as in any picture.

A small network describes each point by its offsets from its pillar's middle and from the mean of the pillar's points; the
greatest of each feature over a pillar is a pixel.  SECOND's trunk and neck run over that, and a 1×1 convolution scores two
anchors a class, along and across, in each cell.

What the public code does and the paper does not say: anchors are matched by overlap after turning boxes to the nearest axis; each
box keeps its best anchor; angles are compared by the sine of their difference, and a second output says which way round; empty
places of a pillar's table take part in the greatest; x and y (in mmdetection3d from 1.0 on z, too) are overwritten by the offsets
from the pillar's centre.
What we change: pillars take all points unless `max_points` says otherwise; centres of boxes are their middle in z, too.

Published (KITTI val, moderate, 3-D AP R11, mmdetection3d, three classes): 64.07 on average.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

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


class PointPillars(BevDetector):
    """Points (B, N, F) -> candidates: of the `candidates` best anchors each class's score and box.

    num_classes              K; 3 are KITTI's pedestrian, cyclist, car
    in_channels              F: x, y, z and further values
    area, cell               metres: what is looked at, and the sides x, y of a pillar
    anchors                  a class each: length, width, height, z of its floor, and the overlaps from which on an anchor stands
                             for a box and below which for none; None: KITTI's, or a car's for every class
    widths, depths, strides  of the trunk's stages; neck_width: of each feature in the neck
    encoder_widths           of the layers that describe points
    centre_axes, replaced, max_points, max_pillars   see `PillarEncoder`
    earlier                  boxes and angles inside as in mmdetection3d before 1.0; what comes out is the same
    candidates               anchors that are looked at
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
        widths: Sequence[int] = (64, 128, 256),
        depths: Sequence[int] = (3, 5, 5),
        strides: Sequence[int] = (2, 2, 2),
        neck_width: int = 128,
        encoder_widths: Sequence[int] = (64,),
        centre_axes: int = 3,
        replaced: bool = True,
        max_points: int | None = None,
        max_pillars: int | None = None,
        earlier: bool = False,
        candidates: int = 100,
    ) -> None:
        low_x, low_y, low_z, high_x, high_y, high_z = area
        grid = Grid((low_x, low_y, low_z, high_x, high_y, high_z), (cell[0], cell[1], high_z - low_z))
        encoder = PillarEncoder(
            grid,
            in_channels,
            encoder_widths,
            centre_axes=centre_axes,
            replaced=replaced,
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
        )
        if anchors is None:
            anchors = (PEDESTRIAN, CYCLIST, CAR) if num_classes == 3 else (CAR,) * num_classes
        if len(anchors) != num_classes or any(len(anchor) != 6 or min(anchor[:3]) <= 0 for anchor in anchors):
            raise ValueError(
                f"anchors is {anchors}; give for each of {num_classes} classes length, width, height (above 0), z of the "
                "floor, and two overlaps"
            )
        if num_classes == 3:
            self.classes = KITTI_CLASSES
        self.earlier, self.candidates = earlier, candidates
        self.start = 0.0 if earlier else -math.pi / 2  # where the half circle of direction 0 begins
        number = num_classes * len(ANGLES)
        self.register_buffer("anchors", self._anchors(anchors), persistent=False)
        self.score = init_classifier(nn.Conv2d(self.feature_channels, number * num_classes, 1))
        nn.init.constant_(self.score.bias, -math.log((1 - 0.01) / 0.01))  # type: ignore[arg-type]
        self.box = init_classifier(nn.Conv2d(self.feature_channels, number * 7, 1))
        self.direction = init_classifier(nn.Conv2d(self.feature_channels, number * 2, 1))
        classes = torch.tensor([k for k in range(num_classes) for _ in ANGLES]).repeat(len(self.anchors) // number)
        loss = AnchorBoxes(
            self.anchors,
            classes,
            [anchor[4] for anchor in anchors],
            [anchor[5] for anchor in anchors],
            start=self.start,
            earlier=earlier,
        )
        weights = {"class": 1.0, "box": 2.0, "direction": 0.2}
        self.set_objective(
            Term("anchors", weights, loss, of=("scores", "codes", "directions"), on="boxes", at="as is", classes=False)
        )

    anchors: Tensor

    def _anchors(self, anchors: Sequence[Sequence[float]]) -> Tensor:
        """(cells * classes * angles, 7), in the order y, x, class, angle, at the middles of the cells."""
        (_, ny, nx), stride = self.grid.shape, self.feature_stride
        (low_x, low_y, _), (side_x, side_y, _) = self.grid.area[:3], self.grid.cell
        # by NumPy, as these operators without numbers (`meta.py`) would import PyTorch's compiler
        x = low_x + (np.arange(nx // stride, dtype=np.float32) + 0.5) * side_x * stride
        y = low_y + (np.arange(ny // stride, dtype=np.float32) + 0.5) * side_y * stride
        sides = (1, 0) if self.earlier else (0, 1)  # which come first
        own = np.array([[a[3] + a[2] / 2, a[sides[0]], a[sides[1]], a[2]] for a in anchors], np.float32)
        shape = (ny // stride, nx // stride, len(anchors), len(ANGLES))
        found = np.empty((*shape, 7), np.float32)
        found[..., 0] = x[:, None, None]
        found[..., 1] = y[:, None, None, None]
        found[..., 2:6] = own[:, None]
        found[..., 6] = ANGLES
        return torch.tensor(found.reshape(-1, 7))

    def outputs(self, features: Tensor) -> dict[str, Tensor]:
        """(B, C, h, w) -> per cell and anchor: scores K, codes 7, directions 2, as channels, the anchor counting first."""
        return {"scores": self.score(features), "codes": self.box(features), "directions": self.direction(features)}

    def decode(self, outputs: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        count = len(self.anchors)
        scores, codes, directions = (
            outputs[name].permute(0, 2, 3, 1).reshape(-1, count, width)
            for name, width in (("scores", self.num_classes), ("codes", 7), ("directions", 2))
        )
        best = scores.amax(2).topk(min(self.candidates, count), 1).indices[..., None]
        scores = scores.gather(1, best.expand(-1, -1, self.num_classes))
        boxes = decode(codes.gather(1, best.expand(-1, -1, 7)), self.anchors[best[..., 0]])
        half = directions.gather(1, best.expand(-1, -1, 2)).argmax(2)
        angle = torch.remainder(boxes[..., 6] - self.start, math.pi) + self.start + math.pi * half
        boxes = torch.cat((boxes[..., :6], angle[..., None]), 2)
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
