"""HRNet for poses: a heat map for each joint of a body, from a network that never gave up its resolution.

A person's box is cut out, brought to the shape of the network's input, and each joint's heat map is a 1×1 convolution of HRNet's
finest branch at 1/4; the coarser ones have given it what they know.  A joint is where its map is greatest, a quarter of a cell
towards the larger neighbour.

What the public code does and the paper does not say: the last module makes the finest branch alone; coarser ones are repeated,
not interpolated; a box is enlarged by a quarter; with the mirrored picture the maps are averaged after a shift by one cell
(`detect(flip=True)`), which is how the published scores were measured.
What we change: any size is taken, not multiples of 32 alone, and targets are drawn by the loss, where the maps are.

Published (COCO val, boxes of a detector of 56.4 AP, mirrored picture averaged): AP 74.4 (W32, 256×192), 75.8 (W32, 384×288), 75.1
and 76.3 (W48).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from segmentarium.backbones import create_backbone
from segmentarium.backbones.hrnet import TINY
from segmentarium.contracts import KeypointModel, Keypoints, Term
from segmentarium.keypoints.heatmaps import mirror_pairs, mirrored, peaks, refined
from segmentarium.layers.init import init_classifier
from segmentarium.losses import JointsMSE
from segmentarium.registry import Card, Paper, register

SIDES = ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")
COCO_JOINTS = ("nose", *(f"{side}_{part}" for part in SIDES for side in ("left", "right")))


class HRNetPose(KeypointModel):
    """One person's picture (B, C, H, W) -> heat maps (B, J, H / 4, W / 4), one a joint.

    num_joints          J; 17 are COCO's, by name
    backbone            an HRNet by name, or another network with a feature of stride 4 (say which by `out_indices`)
    kernel_size         of the convolution that gives the heat maps: 1 as published, or 3
    sigma               of the Gaussians that it learns, in cells; 2 as published at 256×192, 3 at 384×288
    backbone_arguments  further arguments of the backbone's class
    """

    output_names = ("heatmaps",)
    stride = 4
    counted_at = (256, 192)

    def __init__(
        self,
        *,
        num_joints: int = len(COCO_JOINTS),
        backbone: str | nn.Module = "hrnet_w32",
        kernel_size: int = 1,
        sigma: float = 2.0,
        in_channels: int = 3,
        backbone_arguments: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(in_channels=in_channels)
        if num_joints < 1:
            raise ValueError(f"num_joints is {num_joints}; give the number of joints, 1 or more")
        self.backbone = create_backbone(
            backbone, in_channels=in_channels, **{"out_indices": (0,), **(backbone_arguments or {})}
        )
        if self.backbone.strides != (self.stride,):
            raise ValueError(
                f"this backbone gives features of strides {self.backbone.strides}, and heat maps want the one of stride "
                f"{self.stride}; say which it is by backbone_arguments={{'out_indices': (…,)}}"
            )
        self.fixed_size = self.backbone.fixed_size
        self.preprocessing = self.backbone.preprocessing.for_channels(in_channels)
        self.final = init_classifier(
            nn.Conv2d(self.backbone.channels[0], num_joints, kernel_size, padding=kernel_size // 2), std=0.001
        )
        self.joints = COCO_JOINTS if num_joints == len(COCO_JOINTS) else tuple(f"joint {i}" for i in range(num_joints))
        loss = JointsMSE(self.stride, sigma)
        self.set_objective(Term("heatmaps", 1.0, loss, of=("heatmaps",), on="joints", at="as is", classes=False))

    def forward(self, image: Tensor) -> Tensor:
        return self.final(self.backbone(image)[0])

    def forward_train(self, image: Tensor) -> dict[str, Tensor]:
        return {"heatmaps": self(image)}

    def heatmaps(self, image: Tensor, *, flip: bool = False) -> Tensor:
        """(B, C, H, W) -> (B, J, H / 4, W / 4); `flip` averages with the mirrored picture's, shifted by a cell."""
        found = self(image)
        if flip:
            other = mirrored(self(image.flip(-1)), mirror_pairs(self.joints))
            found = (found + torch.cat((other[..., :1], other[..., :-1]), -1)) / 2
        return found

    @torch.no_grad()
    def detect(self, image: Tensor, *, count: int | None = None, flip: bool = False) -> Keypoints:  # type: ignore[override]
        """One person's normalised picture (C, H, W), or a batch of it alone -> its joints in pixels, in their own order.

        count   the best so many, best first
        flip    the heat maps are averaged with those of the mirrored picture
        """
        if image.ndim == 4 and len(image) != 1:
            raise ValueError(f"detect takes one picture, and got {len(image)}; give them one by one")
        image = image if image.ndim == 4 else image[None]
        maps = self.heatmaps(image, flip=flip)
        places, scores = peaks(maps)
        points, scores = refined(maps, places)[0] * self.stride, scores[0]
        if count is not None:
            best = scores.argsort(descending=True)[:count]
            points, scores = points[best], scores[best]
        size = torch.tensor((image.shape[-1], image.shape[-2]), device=image.device)
        return Keypoints(points, scores, points.new_zeros(len(points), 0), size)


PAPER = Paper(
    title="Deep High-Resolution Representation Learning for Human Pose Estimation",
    authors="Sun, Xiao, Liu, Wang",
    venue="CVPR",
    year=2019,
    url="https://arxiv.org/abs/1902.09212",
    code="https://github.com/leoxiaobin/deep-high-resolution-net.pytorch",
    code_licence="MIT",
)

for _width, _parameters, _flops, _small, _large in ((32, 28.5, 7.1, 74.4, 75.8), (48, 63.6, 14.6, 75.1, 76.3)):
    register(
        f"hrnet_pose_w{_width}",
        HRNetPose,
        Card(
            paper=PAPER,
            parameters=_parameters,
            flops=round(_flops * 2**30 / 1e9, 2),  # theirs are in units of 2^30
            flops_size=(256, 192),
            scores={"COCO val AP (256×192)": _small, "COCO val AP (384×288)": _large},
        ),
        tiny={"backbone_arguments": TINY},
        backbone=f"hrnet_w{_width}",
    )
