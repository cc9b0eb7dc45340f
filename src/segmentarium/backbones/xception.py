"""Xception, in the small form that BiSeNet stands on.

The paper's hypothesis: what happens across channels and what happens across positions can be learned apart, so every
convolution is a depthwise 3×3 and a pointwise 1×1.

`xception39` is Xception cut to 39 layers and an eighth of the image's size in its first stage, made by the authors of BiSeNet
(1808.00897) and published in ycszen/TorchSeg (MIT), whose weights load.  Its first feature wide enough to be used has
stride 8; the map at stride 4 is the 8 channels of the stem, pooled.

Published: 185.5 M multiply-adds at 640×360, and 60.78 mIoU on Cityscapes val as an FCN-32s (BiSeNet, table 1).  The 1.2 M
"parameters" of that table are megabytes: the public network has 0.30 million.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.contracts import Backbone
from segmentarium.layers.conv import ConvNormAct
from segmentarium.layers.init import init_convs
from segmentarium.registry import Card, Paper, register


class SeparableConvNorm(nn.Module):
    """Depthwise 3×3 and pointwise 1×1 with nothing between them, one norm after both (section 3: no activation inside)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, *, act: bool = True) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(in_channels, in_channels, 3, stride, 1, groups=in_channels, bias=False)
        self.pointwise = ConvNormAct(in_channels, out_channels, 1, act=nn.ReLU if act else None)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.depthwise(x))


class SmallBlock(nn.Module):
    """Three separable convolutions to a quarter of the width and back, beside a shortcut (Xception-39)."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.convs = nn.Sequential(
            SeparableConvNorm(in_channels, width, stride),
            SeparableConvNorm(width, width),
            SeparableConvNorm(width, outputs, act=False),
        )
        self.shortcut = nn.Identity()
        if stride != 1 or in_channels != outputs:
            self.shortcut = SeparableConvNorm(in_channels, outputs, stride, act=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.convs(x)
        y += self.shortcut(x)
        return F.relu(y, inplace=True)


class Xception39(Backbone):
    """Stem and pooling to stride 4, then three stages of 4, 8 and 4 blocks at strides 8, 16 and 32.

    out_indices   which features come out: 0 to 4 for the strides 2 to 32
    num_classes   classes of `classify`; None: no classifier
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        out_indices: Sequence[int] = (1, 2, 3, 4),
        num_classes: int | None = None,
    ) -> None:
        super().__init__(in_channels=in_channels, num_classes=num_classes)
        self.stem = ConvNormAct(in_channels, 8, 3, 2)
        self.pool = nn.MaxPool2d(3, 2, 1)
        channels = [8, 8]
        layers = []
        for blocks, width in ((4, 16), (8, 32), (4, 64)):
            layer = nn.Sequential(SmallBlock(channels[-1], width, 2))
            channels.append(width * SmallBlock.expansion)
            layer.extend(SmallBlock(channels[-1], width, 1) for _ in range(blocks - 1))
            layers.append(layer)
        self.layer1, self.layer2, self.layer3 = layers
        self.describe(channels, (2, 4, 8, 16, 32), out_indices)
        init_convs(self)

    def pyramid(self, image: Tensor) -> list[Tensor]:
        features = [self.stem(image)]
        features.append(self.pool(features[0]))
        for layer in (self.layer1, self.layer2, self.layer3):
            features.append(layer(features[-1]))
        return features

    num_layers = 4

    def layer_of(self, name: str) -> int:
        return ("stem", "layer1", "layer2", "layer3", "classifier").index(name.partition(".")[0])


PAPER = Paper(
    title="Xception: Deep Learning with Depthwise Separable Convolutions",
    authors="Chollet",
    venue="CVPR",
    year=2017,
    url="https://arxiv.org/abs/1610.02357",
    code="https://github.com/ycszen/TorchSeg",
    code_licence="MIT",
)

register("xception39", Xception39, Card(paper=PAPER, flops=0.1855, flops_size=(360, 640), num_classes=1000))
