"""Xception: every convolution in two, across positions and across channels.  And the small form that BiSeNet stands on.

Weights of timm (Apache-2.0), segmentation-models-pytorch (MIT) and TorchSeg (MIT) load.

The paper's hypothesis: what happens across channels and what happens across positions can be learned apart, so every
convolution is a depthwise 3×3 and a pointwise 1×1, with a norm after both and nothing between them (section 3).  Blocks of two
or three stand beside linear shortcuts: an entry flow of three, each halving the map by max pooling, a middle flow of eight
and an exit flow (figure 5).

What the public code does and the paper does not say: the two convolutions of the stem have no padding, in the authors' Keras
as in timm.  Here they have, as in segmentation-models-pytorch, so that maps are ceil(size / stride); `padded_stem=False` is
the published classifier.  timm takes features behind the ReLU that the next block begins with, segmentation-models-pytorch
before it (`activated=False`).  The pooling strides cannot be dilated: the aligned form (`xception_aligned.py`) is for that.

`xception39` is Xception cut to 39 layers and an eighth of the image's size in its first stage, made by the authors of BiSeNet
(1808.00897).  Its first feature wide enough to be used has stride 8; the map at stride 4 is the 8 channels of the stem, pooled.

Published: ImageNet top-1 79.0 with 22.9 M parameters (tables 1 and 3).  Xception-39: 185.5 M multiply-adds at 640×360, and
60.78 mIoU on Cityscapes val as an FCN-32s (BiSeNet, table 1).  The 1.2 M "parameters" of that table are megabytes: the public
network has 0.30 million.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.contracts import Backbone
from segmentarium.layers.conv import ConvNormAct
from segmentarium.layers.init import init_convs
from segmentarium.layers.pooling import global_average_pool
from segmentarium.preprocessing import Preprocessing
from segmentarium.registry import Card, Paper, register


class SeparableConvNorm(nn.Module):
    """Depthwise 3×3 and pointwise 1×1 with nothing between them, one norm after both (section 3: no activation inside)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, *, act: bool = True) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(in_channels, in_channels, 3, stride, 1, groups=in_channels, bias=False)
        self.pointwise = ConvNormAct(in_channels, out_channels, 1, act=nn.ReLU if act else None)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.depthwise(x))


class Block(nn.Module):
    """Separable convolutions of ReLU, convolution and norm, and max pooling where the map is halved, beside a shortcut.

    channels   of each convolution
    """

    def __init__(self, in_channels: int, channels: Sequence[int], stride: int) -> None:
        super().__init__()
        self.convs = nn.Sequential()
        inputs = in_channels
        for i, outputs in enumerate(channels):
            # the ReLU that stands before the next convolution
            self.convs.append(SeparableConvNorm(inputs, outputs, act=i < len(channels) - 1))
            inputs = outputs
        self.pool = nn.MaxPool2d(3, 2, 1) if stride == 2 else nn.Identity()
        self.shortcut = ConvNormAct(in_channels, inputs, 1, stride, act=None) if stride == 2 else nn.Identity()

    def forward(self, x: Tensor, activated: Tensor) -> Tensor:
        """The block's input, for the shortcut, and the same behind a ReLU, for the convolutions."""
        y = self.pool(self.convs(activated))
        y += self.shortcut(x)
        return y


class Xception(Backbone):
    """Chollet's Xception.

    width         multiplies all channels
    padded_stem   the stem's convolutions keep the map's size at stride 1; False: as published
    activated     features come behind a ReLU; False: as the blocks give them, before it
    dropout       before the classifier, in training: 0.5 for ImageNet (section 4.3)
    out_indices   which features come out: 0 to 4 for the strides 2 to 32
    num_classes   classes of `classify`; None: no classifier
    """

    preprocessing = Preprocessing((0.5,) * 3, (0.5,) * 3, crop_size=299, crop_ratio=0.8975)

    def __init__(
        self,
        *,
        width: float = 1.0,
        padded_stem: bool = True,
        activated: bool = True,
        dropout: float = 0.5,
        in_channels: int = 3,
        out_indices: Sequence[int] = (1, 2, 3, 4),
        num_classes: int | None = None,
    ) -> None:
        super().__init__(in_channels=in_channels, num_classes=num_classes)
        self.activated = activated
        stem1, stem2, entry1, entry2, middle, exit1, exit2, exit3 = (
            int(channels * width) for channels in (32, 64, 128, 256, 728, 1024, 1536, 2048)
        )
        padding = 1 if padded_stem else 0
        self.stem = nn.Sequential(
            ConvNormAct(in_channels, stem1, 3, 2, padding=padding), ConvNormAct(stem1, stem2, 3, padding=padding)
        )
        self.blocks = nn.ModuleList(
            [
                Block(stem2, (entry1, entry1), 2),
                Block(entry1, (entry2, entry2), 2),
                Block(entry2, (middle, middle), 2),
                *(Block(middle, (middle, middle, middle), 1) for _ in range(8)),
                Block(middle, (middle, exit1), 2),
            ]
        )
        self.exit = nn.Sequential(SeparableConvNorm(exit1, exit2), SeparableConvNorm(exit2, exit3, act=False))
        self.dropout = nn.Dropout(0.0 if num_classes is None else dropout)
        self.describe((stem2, entry1, entry2, middle, exit3), (2, 4, 8, 16, 32), out_indices)
        init_convs(self, mode="fan_out")
        self.num_layers = len(self.blocks) + 2

    def pyramid(self, image: Tensor) -> list[Tensor]:
        x = self.stem(image)
        features = []
        for i, block in enumerate(self.blocks):
            activated = F.relu(x) if i else x  # the stem ends in one
            if i in (0, 1, 2, 11):  # before each halving
                features.append(activated if self.activated else x)
            x = block(x, activated)
        x = self.exit(x)
        return [*features, F.relu(x, inplace=True) if self.activated else x]

    def embed(self, image: Tensor) -> Tensor:
        return self.dropout(global_average_pool(F.relu(self.pyramid(image)[-1])).flatten(1))

    def layer_of(self, name: str) -> int:
        part, _, rest = name.partition(".")
        if part == "blocks":
            return int(rest.partition(".")[0]) + 1
        return {"stem": 0, "exit": self.num_layers - 1, "classifier": self.num_layers}[part]


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


def _paper(code: str, licence: str) -> Paper:
    return Paper(
        title="Xception: Deep Learning with Depthwise Separable Convolutions",
        authors="Chollet",
        venue="CVPR",
        year=2017,
        url="https://arxiv.org/abs/1610.02357",
        code=code,
        code_licence=licence,
    )


register(
    "xception",
    Xception,
    Card(
        paper=_paper("https://github.com/keras-team/keras-applications", "MIT"),
        parameters=22.86,
        num_classes=1000,
        scores={"ImageNet top-1": 79.0},
    ),
    tiny={"width": 0.125},
)
register(
    "xception39",
    Xception39,
    Card(
        paper=_paper("https://github.com/ycszen/TorchSeg", "MIT"), flops=0.1855, flops_size=(360, 640), num_classes=1000
    ),
)
