"""BiSeNet V2: a detail and a semantic branch that gate each other.

The authors published no code; the two public implementations are CoinCheung's and mmsegmentation's (Apache-2.0), and both
layouts of weights load.

Two branches see the image side by side: a wide, shallow one keeps detail at 1/8, a narrow, deep one gathers semantics
down to 1/32.  Guided aggregation lets each gate the other at its own scale.  Four booster heads on the semantic branch
supervise it in training and cost nothing afterwards.

What the public code does and the paper does not say: a ReLU after the depthwise convolutions of the gather-and-expansion
layers, conv-BN-ReLU at the end of the context embedding block, a ReLU after the fusion.  We follow the code.  CoinCheung
upsamples in the aggregation by nearest neighbour, mmsegmentation and the paper bilinearly (our default).  CoinCheung's code of
2020, of which a checkpoint of 74.39 is out, upsamples bilinearly with aligned corners, and its boosters are plain heads.

Published: Cityscapes val 73.4, test 72.6 at 156 FPS (GTX 1080 Ti, 512×1024, 21.15 GFLOPs); CamVid test 72.4 at 124.5 FPS
(960×720); the large model 75.8 and 75.3.
"""

from __future__ import annotations

import itertools
from functools import partial
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.checks import check_choice
from segmentarium.contracts import SegmentationModel, Term
from segmentarium.layers.conv import ConvNormAct
from segmentarium.layers.init import init_classifier, init_convs
from segmentarium.layers.pooling import PooledBatchNorm
from segmentarium.layers.resize import resize
from segmentarium.losses import OhemCrossEntropy
from segmentarium.registry import Card, Paper, register

Upsample = Literal["bilinear", "nearest"]
Boosters = Literal["coincheung", "coincheung_2020", "mmseg"]


class DetailBranch(nn.Module):
    """Eight 3×3 convolutions in three stages of stride 2: much width, little depth (table 1 of the paper)."""

    def __init__(self, in_channels: int, channels: tuple[int, int, int]) -> None:
        super().__init__()
        c1, c2, c3 = channels
        self.stage1 = nn.Sequential(ConvNormAct(in_channels, c1, 3, 2), ConvNormAct(c1, c1))
        self.stage2 = nn.Sequential(ConvNormAct(c1, c2, 3, 2), ConvNormAct(c2, c2), ConvNormAct(c2, c2))
        self.stage3 = nn.Sequential(ConvNormAct(c2, c3, 3, 2), ConvNormAct(c3, c3), ConvNormAct(c3, c3))

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, channels[2], H/8, W/8)"""
        return self.stage3(self.stage2(self.stage1(image)))


class Stem(nn.Module):
    """Two ways to 1/4, a strided convolution and a max pooling, side by side (figure 4a)."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv = ConvNormAct(in_channels, channels, 3, 2)
        self.left = nn.Sequential(ConvNormAct(channels, channels // 2, 1), ConvNormAct(channels // 2, channels, 3, 2))
        self.fuse = ConvNormAct(2 * channels, channels)

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, channels, H/4, W/4)"""
        x = self.conv(image)
        return self.fuse(torch.cat([self.left(x), F.max_pool2d(x, 3, 2, 1)], 1))


class GatherExpansion(nn.Module):
    """Gather by a 3×3, expand by a depthwise 3×3 with six filters a channel, project back (figure 5).

    At stride 2 a second depthwise convolution enlarges the field of view, and the shortcut is a separable convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, expansion: int = 6) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.gather = ConvNormAct(in_channels, in_channels)
        if stride == 1:
            self.expand = ConvNormAct(in_channels, hidden, groups=in_channels)
            self.shortcut = nn.Identity()
        else:
            self.expand = nn.Sequential(
                ConvNormAct(in_channels, hidden, 3, stride, groups=in_channels, act=None),
                ConvNormAct(hidden, hidden, groups=hidden),
            )
            self.shortcut = nn.Sequential(
                ConvNormAct(in_channels, in_channels, 3, stride, groups=in_channels, act=None),
                ConvNormAct(in_channels, out_channels, 1, act=None),
            )
        self.project = ConvNormAct(hidden, out_channels, 1, act=None)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H / stride, W / stride)"""
        return F.relu(self.project(self.expand(self.gather(x))) + self.shortcut(x))


class ContextEmbedding(nn.Module):
    """The image's mean feature added to every position (figure 4b)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = PooledBatchNorm(channels)
        self.embed = ConvNormAct(channels, channels, 1, norm=PooledBatchNorm)
        self.last = ConvNormAct(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same shape"""
        return self.last(x + self.embed(self.norm(x.mean((2, 3), keepdim=True))))


class SemanticBranch(nn.Module):
    """Narrow and deep: the stem, then gather-and-expansion layers to 1/32, then the context embedding."""

    def __init__(self, in_channels: int, channels: tuple[int, int, int, int], depth: int) -> None:
        super().__init__()
        c1, c3, c4, c5 = channels
        self.stem = Stem(in_channels, c1)
        self.stage3 = self._stage(c1, c3, 2 * depth)
        self.stage4 = self._stage(c3, c4, 2 * depth)
        self.stage5 = self._stage(c4, c5, 4 * depth)
        self.context = ContextEmbedding(c5)

    @staticmethod
    def _stage(in_channels: int, channels: int, layers: int) -> nn.Sequential:
        rest = (GatherExpansion(channels, channels) for _ in range(layers - 1))
        return nn.Sequential(GatherExpansion(in_channels, channels, stride=2), *rest)

    def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(B, C, H, W) -> context-embedded feature at 1/32, and the features at 1/4, 1/8, 1/16 and 1/32 that the boosters
        see"""
        x4 = self.stem(image)
        x8 = self.stage3(x4)
        x16 = self.stage4(x8)
        x32 = self.stage5(x16)
        return self.context(x32), [x4, x8, x16, x32]


class GuidedAggregation(nn.Module):
    """Each branch weighs the other, at the detail's scale and at the semantics' (figure 6)."""

    def __init__(self, channels: int, upsample: Upsample, pointwise_bias: bool, align_corners: bool) -> None:
        super().__init__()
        check_choice("upsample", upsample, get_args(Upsample))
        self.upsample, self.align_corners = upsample, align_corners
        self.detail_keep = self._separable(channels, pointwise_bias)
        self.detail_down = nn.Sequential(ConvNormAct(channels, channels, 3, 2, act=None), nn.AvgPool2d(3, 2, 1))
        self.semantic_up = ConvNormAct(channels, channels, act=None)
        self.semantic_keep = self._separable(channels, pointwise_bias)
        self.fuse = ConvNormAct(channels, channels)

    @staticmethod
    def _separable(channels: int, bias: bool) -> nn.Sequential:
        return nn.Sequential(
            ConvNormAct(channels, channels, groups=channels, act=None), nn.Conv2d(channels, channels, 1, bias=bias)
        )

    def forward(self, detail: Tensor, semantic: Tensor) -> Tensor:
        """detail (B, channels, H, W), semantic (B, channels, H/4, W/4) -> (B, channels, H, W)"""
        enlarge = partial(resize, size=detail.shape[-2:], mode=self.upsample, align_corners=self.align_corners)
        fine = self.detail_keep(detail) * enlarge(self.semantic_up(semantic)).sigmoid()
        coarse = self.detail_down(detail) * self.semantic_keep(semantic).sigmoid()
        return self.fuse(fine + enlarge(coarse))


class Booster(nn.Module):
    """An auxiliary head of CoinCheung's: 128 wide, upsampled twice, then stride² channels before the classifier."""

    def __init__(self, in_channels: int, num_classes: int, stride: int) -> None:
        super().__init__()
        self.conv = ConvNormAct(in_channels, 128)
        self.dropout = nn.Dropout(0.1)
        self.expand = ConvNormAct(128, stride * stride)
        self.classifier = nn.Conv2d(stride * stride, num_classes, 1)
        init_convs(self, mode="fan_out")
        init_classifier(self.classifier)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, K, 2 H, 2 W)"""
        x = self.dropout(self.conv(x))
        return self.classifier(self.expand(F.interpolate(x, scale_factor=2, mode="nearest")))


class Head(nn.Sequential):
    """3×3 convolutions, dropout, classifier: the main head and boosters of 2020 (one convolution), mmsegmentation's (two)."""

    def __init__(self, in_channels: int, channels: int, num_classes: int, convs: int = 1) -> None:
        widths = [in_channels, *convs * [channels]]
        layers = [ConvNormAct(a, b) for a, b in itertools.pairwise(widths)]
        super().__init__(*layers, nn.Dropout2d(0.1), nn.Conv2d(channels, num_classes, 1))
        init_convs(self, mode="fan_out")
        init_classifier(self[-1])


class BiSeNetV2(SegmentationModel):
    """The whole network.

    width, depth        multiply the channels of both branches, and the layers of the semantic one (table 5: 2 and 3 for "large")
    upsample            of the guided aggregation: "bilinear" (paper, mmsegmentation) or "nearest" (CoinCheung)
    pointwise_bias      of the aggregation's separable convolutions (mmsegmentation has it)
    boosters            auxiliary heads of CoinCheung's form, of that of 2020, or mmsegmentation's, or None
    align_corners       in the aggregation and of the logits (CoinCheung in 2020)
    """

    training_only = ("boosters",)

    def __init__(
        self,
        *,
        num_classes: int = 19,
        in_channels: int = 3,
        width: float = 1.0,
        depth: int = 1,
        upsample: Upsample = "bilinear",
        pointwise_bias: bool = False,
        boosters: Boosters | None = "coincheung",
        align_corners: bool = False,
    ) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels)
        check_choice("boosters", boosters, (*get_args(Boosters), None))
        self.align_corners = align_corners
        c64, c128, c16, c32 = (int(c * width) for c in (64, 128, 16, 32))
        stages = (c16, c32, c64, c128)
        self.detail = DetailBranch(in_channels, (c64, c64, c128))
        self.semantic = SemanticBranch(in_channels, stages, depth)
        self.aggregation = GuidedAggregation(c128, upsample, pointwise_bias, align_corners)
        init_convs(self, mode="fan_out")
        for module in self.modules():
            if isinstance(module, GatherExpansion):  # every layer starts as its shortcut
                assert isinstance(module.project.norm, nn.BatchNorm2d)
                nn.init.zeros_(module.project.norm.weight)
        self.head = Head(c128, 1024, num_classes)
        self.boosters = nn.ModuleDict()
        for stride, channels in zip((4, 8, 16, 32), stages, strict=True):
            if boosters == "coincheung":
                self.boosters[f"aux_{stride}"] = Booster(channels, num_classes, stride)
            elif boosters == "coincheung_2020":
                self.boosters[f"aux_{stride}"] = Head(channels, 128, num_classes)
            elif boosters == "mmseg":
                self.boosters[f"aux_{stride}"] = Head(channels, stride * stride, num_classes, convs=2)
        self.set_objective(*(Term(name, 1.0, OhemCrossEntropy(), of=(name,)) for name in ("logits", *self.boosters)))

    def logits(self, image: Tensor) -> Tensor:
        return self.head(self.aggregation(self.detail(image), self.semantic(image)[0]))

    def forward_train(self, image: Tensor) -> dict[str, Tensor]:
        semantic, features = self.semantic(image)
        outputs = {"logits": self.head(self.aggregation(self.detail(image), semantic))}
        return outputs | {
            name: head(feature) for (name, head), feature in zip(self.boosters.items(), features, strict=False)
        }


PAPER = Paper(
    title="BiSeNet V2: Bilateral Network with Guided Aggregation for Real-time Semantic Segmentation",
    authors="Yu, Gao, Wang, Yu, Shen, Sang",
    venue="IJCV",
    year=2021,
    url="https://arxiv.org/abs/2004.02147",
    code="https://github.com/CoinCheung/BiSeNet",
    code_licence="MIT",
)
SCORES = {"Cityscapes val mIoU": 73.4, "Cityscapes test mIoU": 72.6, "CamVid test mIoU (960×720)": 72.4}
LARGE_SCORES = {"Cityscapes val mIoU": 75.8, "Cityscapes test mIoU": 75.3}
FLOPS = (
    "the public networks, this one among them, have 24.6 at the paper's size; the paper does not say what it left out"
)
LARGE_FLOPS = "the paper gives width 2 and depth 3 but no table of layers; so built, the network has 86.2"

register(
    "bisenetv2",
    BiSeNetV2,
    Card(
        paper=PAPER,
        flops=21.15,
        flops_size=(512, 1024),
        num_classes=19,
        scores=SCORES,
        limits={"flops": FLOPS},
    ),
)
register(
    "bisenetv2_large",
    BiSeNetV2,
    Card(
        paper=PAPER,
        flops=118.51,
        flops_size=(512, 1024),
        num_classes=19,
        scores=LARGE_SCORES,
        limits={"flops": LARGE_FLOPS},
    ),
    width=2.0,
    depth=3,
)
