"""PointRend: segmentation drawn as graphics are rendered, finely where it matters.

A coarse head scores the classes at 1/4.  A small network on single points sees a fine feature and the coarse scores there, both
read between the pixels, and scores the point anew.  At inference the coarse map is doubled step by step, and after each doubling
the points that it is least sure of are scored by that network; in training the points are drawn where the map is unsure, with a
share of arbitrary ones.  The coarse head is semantic FPN.

What the public code does and the paper does not say (mmsegmentation, Apache-2.0, whose form this is): the coarse scores join the
input of every layer, not of the first alone; points read the first feature of the pyramid and the coarse map as it was before any
doubling; a point outside the centres of the border pixels reads zeros there.  Its inference doubles twice with 8196 points
each, its training takes 2048 points: three times as many are drawn, of which the least sure make up three quarters.
What we change: ignored points count neither in the loss nor in its mean; mmsegmentation divides by all points
(`CrossEntropy(average="all")`).  The two best scores of a point are found without sorting its classes.  With one class, where
there is no second, a point is as unsure as its logit is near 0 (-|logit|), as in the authors' mask heads.  A feature finer than
1/4 is left out.

Published (mmsegmentation, single scale): Cityscapes val ResNet-50 76.47, ResNet-101 78.3 (80k); ADE20K val 37.64, 40.02 (160k).
The authors, in detectron2: Cityscapes val 78.9 (ResNet-101); those weights stand on a ResNet with other strides, and do not load.

Recipe of mmsegmentation: SGD, momentum 0.9, rate 0.01, decay 5e-4, poly 0.9 to 1e-4, 200 steps of warm-up; Cityscapes 512×1024,
batch 8, 80k steps; ADE20K 512×512, batch 16, 160k steps; both losses count 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.composition import register_decoder
from segmentarium.contracts import Decoder, Term
from segmentarium.layers.fpn import FeaturePyramid, PyramidSum, first_of_quarter
from segmentarium.layers.init import init_classifier
from segmentarium.layers.points import read_points, uncertainty
from segmentarium.losses import CrossEntropy, PixelLoss
from segmentarium.registry import Card, Paper


@torch.no_grad()
def choose_points(logits: Tensor, candidates: Tensor, random: Tensor, count: int) -> Tensor:
    """The `count` candidates (B, M, 2) where logits (B, K, H, W) are least sure, and `random` (B, R, 2) -> (B, count + R, 2)."""
    least = uncertainty(read_points(logits, candidates)).topk(count, 1).indices
    return torch.cat([candidates.gather(1, least.unsqueeze(2).expand(-1, -1, 2)), random], 1)


def cell_centres(height: int, width: int, like: Tensor) -> Tensor:
    """(height · width, 2): x and y of the cells of a grid over [0, 1]², row by row."""
    x, y = ((torch.arange(size, device=like.device) + 0.5) / size for size in (width, height))
    return torch.stack([x.expand(height, width), y.unsqueeze(1).expand(height, width)], 2).flatten(0, 1)


class PointHead(nn.Module):
    """Features (B, C, N) and coarse scores (B, K, N) of points -> their scores (B, K, N).

    width   channels of each of the `layers` layers, all of which, and the classifier, see the coarse scores too
    """

    def __init__(self, channels: int, num_classes: int, width: int = 256, layers: int = 3) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Conv1d((width if i else channels) + num_classes, width, 1) for i in range(layers)
        )
        for layer in self.layers:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        self.classifier = nn.Conv1d((width if layers else channels) + num_classes, num_classes, 1)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)  # type: ignore[arg-type]

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        x = fine
        for layer in self.layers:
            x = F.relu(layer(torch.cat([x, coarse], 1)), inplace=True)
        return self.classifier(torch.cat([x, coarse], 1))


class PointLoss(nn.Module):
    """`loss` of the scores (B, K, N) of points (B, N, 2) against the labels (B, H, W) of the pixels that they lie in."""

    def __init__(self, loss: PixelLoss | None = None) -> None:
        super().__init__()
        self.loss = loss or CrossEntropy()

    def forward(self, points: Tensor, logits: Tensor, target: Tensor) -> Tensor:
        # label maps hold classes up to 255, which float32 holds exactly
        labels = read_points(target[:, None].float(), points, mode="nearest")[:, 0]
        return self.loss(logits.unsqueeze(3), labels.to(target.dtype).unsqueeze(2))


class PointRendDecoder(Decoder):
    """Semantic FPN, its least sure points drawn anew (figure 3): logits at the finest feature's stride, halved `steps` times.

    pyramid_channels   of the feature pyramid
    width              channels of the coarse head
    groups             of group norms in the coarse head, as in the authors' code; None: batch norms (mmsegmentation)
    point_width        channels of the point head
    point_layers       of the point head
    points             drawn in training, of each image
    oversample         times as many candidates
    importance         share of the points that are the least sure candidates
    steps              doublings at inference; fewer where the finest feature's stride allows fewer
    step_points        points scored after each doubling; all where there are fewer
    """

    def __init__(
        self,
        *,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        pyramid_channels: int = 256,
        width: int = 128,
        groups: int | None = None,
        point_width: int = 256,
        point_layers: int = 3,
        points: int = 2048,
        oversample: int = 3,
        importance: float = 0.75,
        steps: int = 2,
        step_points: int = 8196,
    ) -> None:
        super().__init__()
        if not 0 <= importance <= 1 or oversample < 1 or points < 1 or step_points < 1 or steps < 0:
            raise ValueError(
                f"points {points}, oversample {oversample}, importance {importance}, steps {steps}, step_points "
                f"{step_points}; give 1 or more of each, a share from 0 to 1, and 0 or more steps"
            )
        self.finest = first_of_quarter(strides)
        strides, channels = strides[self.finest :], channels[self.finest :]
        self.points, self.candidates = points, oversample * points
        self.unsure = int(importance * points)
        self.steps = min(steps, strides[0].bit_length() - 1)
        self.step_points = step_points
        self.pyramid = FeaturePyramid(channels, pyramid_channels)
        self.fuse = PyramidSum(pyramid_channels, strides, width, groups)
        self.classifier = init_classifier(nn.Conv2d(width, num_classes, 1))
        self.head = PointHead(pyramid_channels, num_classes, point_width, point_layers)

    def coarse(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """-> the finest feature of the pyramid (B, pyramid_channels, h, w), and the coarse logits (B, K, h, w)"""
        pyramid = self.pyramid(features[self.finest :])
        return pyramid[0], self.classifier(self.fuse(pyramid))

    def score(self, points: Tensor, fine: Tensor, coarse: Tensor) -> Tensor:
        """Points (B, N, 2) -> their logits (B, K, N)."""
        return self.head(read_points(fine, points), read_points(coarse, points))

    def refine(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """-> the coarse logits doubled `steps` times, the least sure points scored anew after each (section 3.1)"""
        refined = coarse = coarse.contiguous()  # class by class, which both the doubling and `uncertainty` go through
        for _ in range(self.steps):
            refined = F.interpolate(refined, scale_factor=2.0, mode="bilinear")
            height, width = refined.shape[-2:]
            count = torch.sym_min(self.step_points, height * width)
            places = uncertainty(refined).flatten(1).topk(count, 1, sorted=False).indices
            logits = self.score(cell_centres(height, width, refined)[places], fine, coarse)
            places = places.unsqueeze(1).expand(-1, logits.shape[1], -1)
            refined = refined.flatten(2).scatter(2, places, logits.to(refined.dtype)).unflatten(2, (height, width))
        return refined

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        return self.refine(*self.coarse(features))

    def forward_train(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """The coarse logits; points, drawn anew in each call, and their logits"""
        fine, coarse = self.coarse(features)
        batch, device = len(coarse), coarse.device
        candidates = torch.rand(batch, self.candidates, 2, device=device)
        random = torch.rand(batch, self.points - self.unsure, 2, device=device)
        points = choose_points(coarse, candidates, random, self.unsure)
        return {"logits": coarse, "points": points, "point_logits": self.score(points, fine, coarse)}

    def objective(self) -> tuple[Term, ...]:
        points = Term("points", 1.0, PointLoss(), of=("points", "point_logits"), at="as is", classes=False)
        return (*super().objective(), points)


PAPER = Paper(
    title="PointRend: Image Segmentation as Rendering",
    authors="Kirillov, Wu, He, Girshick",
    venue="CVPR",
    year=2020,
    url="https://arxiv.org/abs/1912.08193",
    code="https://github.com/facebookresearch/detectron2/tree/main/projects/PointRend",
    code_licence="Apache-2.0",
)
for _depth, _city, _ade in ((50, 76.47, 37.64), (101, 78.3, 40.02)):
    register_decoder(
        f"pointrend_resnet{_depth}",
        PointRendDecoder,
        Card(
            paper=PAPER,
            num_classes=19,
            scores={
                "Cityscapes val mIoU (mmsegmentation, 80k)": _city,
                "ADE20K val mIoU (mmsegmentation, 160k)": _ade,
            },
        ),
        backbone=f"resnet{_depth}_v1c",
    )
