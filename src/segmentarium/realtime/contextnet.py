"""ContextNet: context from a small image, detail from a large one.

The authors published no code; the layout of the public implementation's weights loads.

A deep branch of inverted bottlenecks sees the image at a quarter of its size and gathers context down to 1/32; a shallow
one of four layers sees it whole and keeps detail at 1/8.  The two are summed, and two separable convolutions classify.

What the public code does and the paper does not say: the first convolution of both branches has no padding, and resizing
aligns corners.  It has no dilation in the fusion, where the paper has 4, and a ReLU between the depthwise and the pointwise
convolutions of the shallow branch.  `form="public"` (our default) follows it, `form="paper"` the paper.  The public code
builds an auxiliary head on the shallow branch and never calls it; here it is trained, with Fast-SCNN's weight of 0.4.

Published: Cityscapes test 66.1 at 18.3 FPS (1024×2048, 0.85 M parameters).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.checks import check_choice
from segmentarium.contracts import SegmentationModel, Term
from segmentarium.layers.conv import ConvNormAct, SeparableConv
from segmentarium.layers.init import init_classifier, init_convs
from segmentarium.layers.inverted_residual import InvertedResidual
from segmentarium.layers.resize import resize
from segmentarium.losses import CrossEntropy
from segmentarium.registry import Card, Paper, register

BOTTLENECKS = (  # the deep branch: channels, blocks, expansion, stride
    (32, 1, 1, 1),
    (32, 1, 6, 1),
    (48, 3, 6, 2),
    (64, 3, 6, 2),
    (96, 2, 6, 1),
    (128, 2, 6, 1),
)


def bottlenecks(in_channels: int, rows: tuple[tuple[int, int, int, int], ...]) -> nn.Sequential:
    """A stage for each row of a paper's table: channels, blocks, expansion, stride of the first block.

    The blocks are MobileNetV2's with ReLU for ReLU6, and expand at every expansion.
    """
    stages = nn.Sequential()
    for channels, blocks, expansion, stride in rows:
        stage = nn.Sequential()
        for index in range(blocks):
            step = stride if index == 0 else 1
            stage.append(InvertedResidual(in_channels, channels, expansion, step, act=nn.ReLU, expand=True))
            in_channels = channels
        stages.append(stage)
    return stages


class FeatureFusion(nn.Module):
    """The coarse map, resized and filtered, plus the fine one, each through a linear 1×1 convolution."""

    def __init__(
        self, fine_channels: int, coarse_channels: int, channels: int, *, dilation: int, bias: bool, align_corners: bool
    ) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.depthwise = ConvNormAct(coarse_channels, coarse_channels, dilation=dilation, groups=coarse_channels)
        self.coarse = ConvNormAct(coarse_channels, channels, 1, bias=bias, act=None)
        self.fine = ConvNormAct(fine_channels, channels, 1, bias=bias, act=None)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """(B, fine_channels, H, W), (B, coarse_channels, h, w) -> (B, channels, H, W)"""
        coarse = resize(coarse, fine.shape[-2:], align_corners=self.align_corners)
        return F.relu_(self.fine(fine).add_(self.coarse(self.depthwise(coarse))))


class Classifier(nn.Sequential):
    """Two separable convolutions, dropout, and the classifier.  (B, channels, H, W) -> (B, K, H, W)"""

    def __init__(self, channels: int, num_classes: int, *, depthwise_act: Callable[[], nn.Module] | None) -> None:
        super().__init__(
            SeparableConv(channels, channels, depthwise_act=depthwise_act),
            SeparableConv(channels, channels, depthwise_act=depthwise_act),
            nn.Dropout(0.1),
            nn.Conv2d(channels, num_classes, 1),
        )


class AuxiliaryHead(nn.Sequential):
    """A 3×3 convolution to 32 channels, dropout, and a classifier; for training only.  (B, C, H, W) -> (B, K, H, W)"""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__(ConvNormAct(in_channels, 32), nn.Dropout(0.1), nn.Conv2d(32, num_classes, 1))


class ContextNet(SegmentationModel):
    """The whole network.

    reduction   by how much the deep branch's image is smaller: 4 as published (cn14), 2 (cn12) or 8 (cn18)
    form        "public": as the public code; "paper": padded first convolutions, dilation 4 in the fusion, no ReLU between
                depthwise and pointwise convolutions, no aligned corners
    auxiliary   a head on the shallow branch, in training
    """

    training_only = ("auxiliary",)

    def __init__(
        self,
        *,
        num_classes: int = 19,
        in_channels: int = 3,
        reduction: Literal[2, 4, 8] = 4,
        form: Literal["public", "paper"] = "public",
        auxiliary: bool = True,
    ) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels)
        check_choice("reduction", reduction, (2, 4, 8))
        check_choice("form", form, ("public", "paper"))
        public = form == "public"
        self.reduction = reduction
        self.align_corners = public
        act = nn.ReLU if public else None
        padding = 0 if public else 1
        self.detail = nn.Sequential(
            ConvNormAct(in_channels, 32, 3, 2, padding=padding),
            SeparableConv(32, 64, 3, 2, depthwise_act=act),
            SeparableConv(64, 128, 3, 2, depthwise_act=act),
            SeparableConv(128, 128, depthwise_act=act),
        )
        self.context = nn.Sequential(ConvNormAct(in_channels, 32, 3, 2, padding=padding), *bottlenecks(32, BOTTLENECKS))
        self.fusion = FeatureFusion(128, 128, 128, dilation=1 if public else 4, bias=public, align_corners=public)
        self.classifier = Classifier(128, num_classes, depthwise_act=act)
        self.auxiliary = nn.ModuleDict({"aux_8": AuxiliaryHead(128, num_classes)} if auxiliary else {})
        self.set_objective(
            Term("logits", 1.0, CrossEntropy()),
            *(Term(name, 0.4, CrossEntropy(), of=(name,)) for name in self.auxiliary),
        )
        init_convs(self, mode="fan_out")
        for head in (self.classifier, *self.auxiliary.values()):
            assert isinstance(head, nn.Sequential)
            init_classifier(head[-1])

    def _small(self, image: Tensor) -> Tensor:
        """The deep branch's image: (B, C, H, W) -> (B, C, H / reduction, W / reduction), rounded down."""
        height, width = image.shape[-2:]
        return resize(image, (height // self.reduction, width // self.reduction), align_corners=self.align_corners)

    def logits(self, image: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K, H/8, W/8)"""
        return self.classifier(self.fusion(self.detail(image), self.context(self._small(image))))

    def forward_train(self, image: Tensor) -> dict[str, Tensor]:
        detail = self.detail(image)
        fused = self.fusion(detail, self.context(self._small(image)))
        outputs = {"logits": self.classifier(fused)}
        return outputs | {name: head(detail) for name, head in self.auxiliary.items()}


PAPER = Paper(
    title="ContextNet: Exploring Context and Detail for Semantic Segmentation in Real-time",
    authors="Poudel, Bonde, Liwicki, Zach",
    venue="BMVC",
    year=2018,
    url="https://arxiv.org/abs/1805.04554",
    code="https://github.com/xiaoyufenfei/Efficient-Segmentation-Networks",
    code_licence="MIT",
)
PARAMETERS = "the public network, which is this one, has 0.877"

register(
    "contextnet",
    ContextNet,
    Card(
        paper=PAPER,
        parameters=0.85,
        num_classes=19,
        scores={"Cityscapes test mIoU": 66.1},
        limits={"parameters": PARAMETERS},
    ),
)
register("contextnet_cn12", ContextNet, Card(paper=PAPER, num_classes=19), reduction=2)
register("contextnet_cn18", ContextNet, Card(paper=PAPER, num_classes=19), reduction=8)
