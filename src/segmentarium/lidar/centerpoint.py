"""CenterPoint: an object is the peak of a heat map seen from above, and all else is read off at its cell.

Classes are shared out over tasks.  From one convolution over the neck's map each task has its own small heads: offset in the
cell, height, size, sine and cosine of the angle, speed, and a heat map a class.  A Gaussian is drawn around each centre in
training, its radius by CornerNet's rule; in inference there are no anchors, and what is left to suppress is near a better
centre.  This is the form on pillars.

What the public code does and the paper does not say: a point is described as in PointPillars, by two layers in the authors' code;
the peak need not be a local maximum; a radius is 2 cells at least; speeds weigh 0.2 in a box's loss, which weighs 0.25.
One of mmdetection3d's networks reads a task's boxes and heat maps each after a deformable convolution (`deformable`).
What we change: pillars take all points unless `max_points` says otherwise.  The second stage and the voxel form are not here.

Published (nuScenes val): pillars 50.3 mAP, 60.2 NDS; mmdetection3d's 48.70 and 59.62 with suppression by distance.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segmentarium.contracts import Term
from segmentarium.layers.conv import ConvNormAct
from segmentarium.layers.deformable_conv import DeformableConv
from segmentarium.layers.init import init_convs
from segmentarium.layers.turned_boxes import as_in_earlier_code
from segmentarium.lidar.bev import BevDetector, sorted_candidates
from segmentarium.lidar.pillars import Grid, PillarEncoder
from segmentarium.losses.centres import Centres
from segmentarium.registry import Card, Paper, register

NUSCENES_AREA = (-51.2, -51.2, -5.0, 51.2, 51.2, 3.0)
NUSCENES_TASKS = (1, 2, 2, 1, 2, 2)
NUSCENES_CLASSES = (
    "car", "truck", "construction_vehicle", "bus", "trailer", "barrier", "motorcycle", "bicycle", "pedestrian", "traffic_cone",
)  # fmt: skip
# metres between centres, a task each
NUSCENES_RADII = (4.0, 12.0, 10.0, 1.0, 0.85, 0.175)
RARE = -2.19  # bias of heat maps at the start: a score of 0.1


class CenterPoint(BevDetector):
    """Points (B, N, F) -> the best `candidates` of each task, as boxes (B, M, 9) with the speed along x and y, or (B, M, 7).

    num_classes              K; 10 are nuScenes'
    in_channels              F: x, y, z and further values; of several sweeps the last is how long ago
    area, cell               metres: what is looked at, and the sides x, y of a pillar
    tasks                    how many classes each has, in their order; None: nuScenes' for 10 classes, else one task
    velocity                 boxes have a speed
    widths, depths, strides  of the trunk's stages; neck_width: of each feature in the neck; head_width: of the heads
    encoder_widths           of the layers that describe points
    centre_axes, max_points, max_pillars   see `PillarEncoder`
    head_bias                convolutions before a norm have a bias, as in the authors' code
    deformable               a task's boxes and its heat maps are read off after a deformable convolution each
    earlier                  boxes and angles inside as in det3d and mmdetection3d before 1.0; what comes out is the same
    candidates               of each task
    """

    threshold, overlap, most = 0.1, 0.2, 500

    def __init__(
        self,
        *,
        num_classes: int = 10,
        in_channels: int = 5,
        area: Sequence[float] = NUSCENES_AREA,
        cell: Sequence[float] = (0.2, 0.2),
        tasks: Sequence[int] | None = None,
        velocity: bool = True,
        widths: Sequence[int] = (64, 128, 256),
        depths: Sequence[int] = (3, 5, 5),
        strides: Sequence[int] = (2, 2, 2),
        neck_width: int = 128,
        head_width: int = 64,
        encoder_widths: Sequence[int] = (64,),
        centre_axes: int = 3,
        max_points: int | None = None,
        max_pillars: int | None = None,
        head_bias: bool = False,
        earlier: bool = False,
        deformable: bool = False,
        candidates: int = 500,
    ) -> None:
        low_x, low_y, low_z, high_x, high_y, high_z = area
        grid = Grid((low_x, low_y, low_z, high_x, high_y, high_z), (cell[0], cell[1], high_z - low_z))
        encoder = PillarEncoder(
            grid, in_channels, encoder_widths, centre_axes=centre_axes, max_points=max_points, max_pillars=max_pillars
        )
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
            factors=[2.0**i / 2 for i in range(len(strides))],
            transposed_at_one=False,
        )
        if tasks is None:
            tasks = NUSCENES_TASKS if num_classes == len(NUSCENES_CLASSES) else (num_classes,)
        if sum(tasks) != num_classes or min(tasks) < 1:
            raise ValueError(f"tasks is {tuple(tasks)}; give numbers of classes that add up to {num_classes}")
        if num_classes == len(NUSCENES_CLASSES):
            self.classes = NUSCENES_CLASSES
        self.task_sizes, self.velocity, self.earlier, self.candidates = tuple(tasks), velocity, earlier, candidates
        self.deformable = deformable
        self.groups = tuple(task for task, count in enumerate(tasks) for _ in range(count))
        self.shared = ConvNormAct(self.feature_channels, head_width, 3, bias=head_bias)
        self.heads = {"offset": 2, "height": 1, "size": 3, "angle": 2} | ({"speed": 2} if velocity else {})
        self.tasks = nn.ModuleList()
        for count in tasks:
            heads = nn.ModuleDict()
            for name, channels in {**self.heads, "heatmap": count}.items():
                layers = (
                    ConvNormAct(head_width, head_width, 3, bias=head_bias),
                    nn.Conv2d(head_width, channels, 3, padding=1),
                )
                heads[name] = nn.Sequential(*layers)
            init_convs(heads)
            final = heads["heatmap"][1]  # type: ignore[index]
            nn.init.normal_(final.weight, std=0.01)
            nn.init.constant_(final.bias, RARE)
            for name in ("adapt_box", "adapt_class") if deformable else ():
                heads[name] = DeformableConv(head_width, head_width, groups=4)
            self.tasks.append(heads)
        init_convs(self.shared)
        (stride,) = self.feature_strides
        self.low, self.step = grid.area[:2], (grid.cell[0] * stride, grid.cell[1] * stride)
        loss = Centres(tasks, self.low, self.step, velocity=velocity, earlier=earlier)
        self.map_names = tuple(f"task{i}" for i in range(len(tasks)))
        weights = {"heatmap": 1.0, "box": 0.25}
        self.set_objective(Term("centres", weights, loss, of=self.map_names, on="boxes", at="as is", classes=False))

    def near_suppression(self, radii: Sequence[float] = NUSCENES_RADII) -> None:
        """Lets distance suppress instead of overlap, by metres for each task, as the published scores were measured."""
        if len(radii) != len(self.task_sizes) or self.groups is None:
            raise ValueError(f"radii is {tuple(radii)}; give one for each of {len(self.task_sizes)} tasks")
        self.radii = tuple(radii[group] for group in self.groups)

    def outputs(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """[(B, C, h, w)] -> a map for each task, whose channels are offset 2, height, size 3, angle 2, speed 2, heat maps."""
        (x,) = features
        x = self.shared(x)
        found = {}
        for i, heads in enumerate(self.tasks):
            of_box, of_class = (
                (heads["adapt_box"](x), heads["adapt_class"](x)) if self.deformable else (x, x)  # type: ignore[index]
            )
            maps = [heads[name](of_box) for name in self.heads]  # type: ignore[index]
            found[f"task{i}"] = torch.cat((*maps, heads["heatmap"](of_class)), 1)  # type: ignore[index]
        return found

    def decode(self, outputs: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        numbers, first = sum(self.heads.values()), 0
        for i, count in enumerate(self.task_sizes):
            maps = outputs[f"task{i}"]
            height, width = maps.shape[-2:]
            heat = maps[:, numbers:].flatten(1)
            scores, best = heat.topk(min(self.candidates, count * height * width), 1)
            place = torch.remainder(best, height * width)
            code = maps[:, :numbers].flatten(2).mT.gather(1, place[..., None].expand(-1, -1, numbers))
            x = (torch.remainder(place, width) + code[..., 0]) * self.step[0] + self.low[0]
            y = (place // width + code[..., 1]) * self.step[1] + self.low[1]
            angle = torch.atan2(code[..., 6], code[..., 7])
            box = torch.stack((x, y, code[..., 2], *code[..., 3:6].exp().unbind(-1), angle), -1)
            box = torch.cat((box, code[..., 8:]), -1)
            found.append((as_in_earlier_code(box) if self.earlier else box, best // (height * width) + first, scores))
            first += count
        boxes, labels, scores = (torch.cat(parts, 1) for parts in zip(*found, strict=True))
        return sorted_candidates(boxes, labels, scores)


PAPER = Paper(
    title="Center-based 3D Object Detection and Tracking",
    authors="Yin, Zhou, Krähenbühl",
    venue="CVPR",
    year=2021,
    url="https://arxiv.org/abs/2006.11275",
    code="https://github.com/tianweiy/CenterPoint",
    code_licence="MIT",
)
# the same code on a few cells
TINY = {
    "area": [-10.24, -10.24, -5.0, 10.24, 10.24, 3.0],
    "cell": [0.64, 0.64],
    "widths": [8, 8, 16],
    "depths": [1, 1, 1],
    "neck_width": 8,
    "head_width": 8,
    "encoder_widths": [8],
    "candidates": 50,
}
register(
    "centerpoint_pillar",
    CenterPoint,
    Card(paper=PAPER, num_classes=10, scores={"nuScenes val mAP": 50.3, "nuScenes val NDS": 60.2}),
    tiny=TINY,
)
