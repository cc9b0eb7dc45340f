"""PP-HumanSeg: portraits in video conferences.

The paper calls it ConnectNet, its code `PPHumanSegLite`.

A ShuffleNetV2 encoder that stops at 1/16, and a decoder of three separable convolutions: the deep map is upsampled once,
eight times, to meet a narrow copy of the first feature at 1/2, so that the outline comes from fine detail and the body
from context.

What the authors' code does and we follow: the classifier ends in batch norm and ReLU, so its logits are 0 or more.
What we change:
- the code's stride-1 units each own a separable convolution that nothing uses; it is not built, and dropped from their weights;
- one sigmoid logit (`num_classes=1`) has no ReLU, since a logit of 0 or more could never say background;
- the paper's connectivity loss, which compares connected components, passes a gradient, which the code's does not.  Its
  weight is 0.1, the greatest of PaddleSeg's configurations, and it is taken at the logits' own size, 1/2.

Published: PP-HumanSeg14K mIoU 93.60 (PP-HumanSegV1-Lite); 0.13 M parameters, which are those without the unused ones.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.contracts import Preprocessing, SegmentationModel, Term
from segmentarium.layers.conv import ConvNormAct, SeparableConv
from segmentarium.layers.resize import resize
from segmentarium.losses import Connectivity, CrossEntropy
from segmentarium.registry import Card, Paper, register


class ShuffleUnit(nn.Module):
    """The unit of ShuffleNetV2 (Ma et al., arXiv 1807.11164): one half of the channels passes, the other is convolved, then
    both are interleaved.

    At stride 2 both halves see the whole input, and the passing one goes through a strided separable convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        half = out_channels // 2
        self.shortcut = SeparableConv(in_channels, half, 3, stride, depthwise_act=None) if stride > 1 else nn.Identity()
        self.split = stride == 1
        self.expand = ConvNormAct(half if self.split else in_channels, half, 1)
        self.separable = SeparableConv(half, half, 3, stride, depthwise_act=None)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), …)"""
        passing, convolved = x.chunk(2, 1) if self.split else (x, x)
        pair = (self.shortcut(passing), self.separable(self.expand(convolved)))
        return torch.stack(pair, 2).flatten(1, 2)  # channel shuffle with two groups: a0 b0 a1 b1 ...


class PPHumanSeg(SegmentationModel):
    """ConnectNet, the whole network."""

    def __init__(self, *, num_classes: int = 2, in_channels: int = 3) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels)
        self.stem = ConvNormAct(in_channels, 36, 3, 2)
        self.detail = ConvNormAct(36, 18, 1)
        self.stage1 = nn.Sequential(ShuffleUnit(36, 72, 2), *(ShuffleUnit(72, 72) for _ in range(3)))
        self.stage2 = nn.Sequential(ShuffleUnit(72, 144, 2), *(ShuffleUnit(144, 144) for _ in range(7)))
        self.reduce = SeparableConv(144, 64, depthwise_act=None)
        self.fuse = SeparableConv(64 + 18, 64, depthwise_act=None)
        self.classifier = SeparableConv(64, num_classes, depthwise_act=None, act=nn.ReLU if num_classes > 1 else None)
        if num_classes == 1:  # the score comes out of a batch norm without a ReLU: a deviation of 1 is loud for a start
            last = self.classifier.pointwise.norm
            assert isinstance(last, nn.BatchNorm2d)
            nn.init.constant_(last.weight, 0.5)
        self.preprocessing = Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)).for_channels(in_channels)
        self.set_objective(
            Term("logits", 1.0, CrossEntropy()),
            Term("connectivity", 0.1, Connectivity(), at="output", classes=False),
        )

    def logits(self, image: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K, H/2, W/2)"""
        x2 = self.stem(image)
        x16 = self.stage2(self.stage1(F.max_pool2d(x2, 3, 2, 1)))
        detail = self.detail(x2)
        context = resize(self.reduce(x16), detail.shape[-2:])
        return self.classifier(self.fuse(torch.cat([detail, context], 1)))


PAPER = Paper(
    title="PP-HumanSeg: Connectivity-Aware Portrait Segmentation with a Large-Scale Teleconferencing Video Dataset",
    authors="Chu, Liu, Wu, Tang, Chen, Hao, Peng, Yu, Chen, Lai, Xiong",
    venue="WACV workshops",
    year=2022,
    url="https://arxiv.org/abs/2112.07146",
    code="https://github.com/PaddlePaddle/PaddleSeg",
    code_licence="Apache-2.0",
)

register(
    "pphumanseg", PPHumanSeg, Card(paper=PAPER, parameters=0.13, num_classes=2, scores={"PP-HumanSeg14K mIoU": 93.60})
)
