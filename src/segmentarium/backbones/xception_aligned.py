"""Aligned Xception: DeepLabV3+'s trunk, which can be dilated.

Weights of timm (Apache-2.0) load, among them those that came from TensorFlow's DeepLab.

Xception with three changes (section 3.2): more blocks; every max pooling replaced by a separable convolution with a stride,
so that features can be had at any resolution; and a norm and, in the last block, a ReLU behind each depthwise convolution.

Output stride 16 or 8 dilates the convolutions behind the strides that are given up; the block that gives up its stride keeps
the rate before it (TensorFlow, timm).  Features are taken where the map is still large, before the last convolution of the
blocks that halve it, as DeepLabV3+ takes its low-level feature; timm takes them behind the ReLU, TensorFlow before it, and we
follow timm.  What we change: a block keeps its shortcut where it gives up its stride; timm leaves that of Xception-71 at output
stride 8 out, against the weights.

`xception41p` and `xception65p` are timm's own: norm and ReLU stand before the convolutions, nothing between depthwise and
pointwise, and the shortcut starts behind the norm (`preact`).

Published (ImageNet top-1, timm's results): 41: 78.55, 65: 79.56 (in timm's own training 83.19), 71: 79.92 with 27.0, 39.9 and
42.3 M parameters and 9.28, 13.96 and 18.09 G multiply-adds at 299 pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.contracts import Backbone
from segmentarium.layers.conv import ConvNormAct, SeparableConv
from segmentarium.layers.drop_path import DropPath, drop_path_rates
from segmentarium.layers.init import init_convs
from segmentarium.layers.pooling import global_average_pool
from segmentarium.preprocessing import Preprocessing
from segmentarium.registry import Card, Paper, register

SHORT_ENTRY = ((128, 2), (256, 2), (728, 2))  # channels and stride of the entry flow's blocks
LONG_ENTRY = ((128, 2), (256, 1), (256, 2), (728, 1), (728, 2))
DEPTHS = {41: (SHORT_ENTRY, 8), 65: (SHORT_ENTRY, 16), 71: (LONG_ENTRY, 16)}  # and how many in the middle flow


class Block(nn.Module):
    """Three separable convolutions beside a shortcut, the last one with the stride.

    relu_first   the input is not behind a ReLU yet
    last         the network's last block: no shortcut, a ReLU behind every convolution
    """

    def __init__(
        self,
        in_channels: int,
        channels: Sequence[int],
        stride: int,
        dilation: int,
        *,
        project: bool,
        relu_first: bool = True,
        last: bool = False,
        drop: float = 0.0,
    ) -> None:
        super().__init__()
        first, second, third = channels
        inner = nn.ReLU if last else None
        self.relu_first = relu_first and not last
        self.convs = nn.Sequential(
            SeparableConv(in_channels, first, dilation=dilation, depthwise_act=inner),
            SeparableConv(first, second, dilation=dilation, depthwise_act=inner),
        )
        self.last = SeparableConv(second, third, stride=stride, dilation=dilation, depthwise_act=inner, act=inner)
        self.shortcut: nn.Module | None = None
        if not last:
            self.shortcut = ConvNormAct(in_channels, third, 1, stride, act=None) if project else nn.Identity()
        self.drop_path = DropPath(drop)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """-> the block's output, and the feature before its last convolution"""
        feature = self.convs(F.relu(x) if self.relu_first else x)
        y = self.drop_path(self.last(feature))
        if self.shortcut is not None:
            y += self.shortcut(x)
        return y, feature


class PreactSeparable(nn.Module):
    """Norm and ReLU, where there are some, depthwise 3×3, pointwise 1×1."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, dilation: int, *, norm: bool) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(in_channels) if norm else None
        plain = partial(ConvNormAct, bias=False, norm=None, act=None)
        self.depthwise = plain(in_channels, in_channels, 3, stride, dilation=dilation, groups=in_channels)
        self.pointwise = plain(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.norm is not None:
            x = F.relu(self.norm(x), inplace=True)
        return self.pointwise(self.depthwise(x))


class PreactBlock(nn.Module):
    """The same with norms before the convolutions; the norm before the first serves the shortcut, too.

    tapped   the feature before the last convolution is one of the pyramid's
    """

    def __init__(
        self,
        in_channels: int,
        channels: Sequence[int],
        stride: int,
        dilation: int,
        *,
        project: bool,
        tapped: bool = False,
        last: bool = False,
        drop: float = 0.0,
    ) -> None:
        super().__init__()
        first, second, third = channels
        self.tapped = tapped
        self.norm = nn.BatchNorm2d(in_channels)
        self.convs = nn.Sequential(
            PreactSeparable(in_channels, first, 1, dilation, norm=False),
            PreactSeparable(first, second, 1, dilation, norm=True),
        )
        self.last = PreactSeparable(second, third, stride, dilation, norm=True)
        self.shortcut: nn.Module | None = None
        if not last:
            self.shortcut = nn.Conv2d(in_channels, third, 1, stride, bias=False) if project else nn.Identity()
        self.drop_path = DropPath(drop)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """-> the block's output, and the feature before its last convolution"""
        x = F.relu(self.norm(x), inplace=True)
        feature = self.convs(x)
        # as another tensor: deploy() would fold the next norm into the convolution before it, and so change the feature
        y = self.drop_path(self.last(feature.view_as(feature) if self.tapped else feature))
        if self.shortcut is not None:
            y += self.shortcut(x)
        return y, feature


class AlignedXception(Backbone):
    """Xception-41, 65 or 71.

    depth           41, 65 or 71
    width           multiplies all channels
    preact          norms stand before the convolutions (timm's 41p and 65p)
    norm_eps        epsilon of the batch norms
    output_stride   32 as published; 16 or 8: later blocks dilated instead of strided
    drop_path       stochastic depth of the last block; it grows linearly from 0 at the first
    out_indices     which features come out: 0 to 4 for the strides 2 to 32
    num_classes     classes of `classify`; None: no classifier
    """

    preprocessing = Preprocessing((0.5,) * 3, (0.5,) * 3, crop_size=299, crop_ratio=0.903)

    def __init__(
        self,
        *,
        depth: int = 65,
        width: float = 1.0,
        preact: bool = False,
        norm_eps: float = 1e-3,
        in_channels: int = 3,
        output_stride: int = 32,
        drop_path: float = 0.0,
        out_indices: Sequence[int] = (1, 2, 3, 4),
        num_classes: int | None = None,
    ) -> None:
        super().__init__(in_channels=in_channels, num_classes=num_classes)
        if depth not in DEPTHS:
            raise ValueError(f"depth is {depth}; an aligned Xception has {', '.join(map(str, DEPTHS))} layers")
        if output_stride not in (8, 16, 32):
            raise ValueError(f"output_stride is {output_stride}; an aligned Xception can have 8, 16 or 32")
        self.preact = preact
        entry, middle = DEPTHS[depth]
        plan = [((channels,) * 3, stride) for channels, stride in entry] + [((728,) * 3, 1)] * middle
        plan += [((728, 1024, 1024), 2), ((1536, 1536, 2048), 1)]
        stem1, stem2 = int(32 * width), int(64 * width)
        self.stem = nn.Sequential(
            ConvNormAct(in_channels, stem1, 3, 2),
            nn.Conv2d(stem1, stem2, 3, padding=1, bias=False) if preact else ConvNormAct(stem1, stem2, 3),
        )
        self.blocks = nn.ModuleList()
        self.halving: list[int] = []  # the blocks before whose last convolution a feature is taken
        inputs, channels, strides = stem2, [], []
        stride, rate = 2, 1
        for i, ((widths, step), drop) in enumerate(zip(plan, drop_path_rates(drop_path, (len(plan),))[0], strict=True)):
            wide = [int(c * width) for c in widths]
            before, halves = rate, step == 2
            if halves:
                self.halving.append(i)
                channels.append(wide[1])
                strides.append(stride)
                if stride * step > output_stride:
                    rate, step = rate * step, 1
                stride *= step
            last, project = i == len(plan) - 1, halves or wide[-1] != inputs
            block = (
                PreactBlock(inputs, wide, step, before, project=project, tapped=halves, last=last, drop=drop)
                if preact
                else Block(inputs, wide, step, before, project=project, relu_first=i > 0, last=last, drop=drop)
            )
            self.blocks.append(block)
            inputs = wide[-1]
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = norm_eps
        self.describe([*channels, inputs], [*strides, stride], out_indices)
        init_convs(self, mode="fan_out")
        self.num_layers = len(self.blocks) + 1

    def pyramid(self, image: Tensor) -> list[Tensor]:
        """-> the features of the four halvings, each before it, and the last block's"""
        x = self.stem(image)
        features = []
        for i, block in enumerate(self.blocks):
            x, feature = block(x)
            if i in self.halving:
                features.append(feature)
        return [*features, x]

    def embed(self, image: Tensor) -> Tensor:
        x = self.pyramid(image)[-1]
        return global_average_pool(F.relu(x) if self.preact else x).flatten(1)

    def layer_of(self, name: str) -> int:
        part, _, rest = name.partition(".")
        return int(rest.partition(".")[0]) + 1 if part == "blocks" else 0 if part == "stem" else self.num_layers


PAPER = Paper(
    title="Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation",
    authors="Chen, Zhu, Papandreou, Schroff, Adam",
    venue="ECCV",
    year=2018,
    url="https://arxiv.org/abs/1802.02611",
    code="https://github.com/tensorflow/models/tree/master/research/deeplab",
    code_licence="Apache-2.0",
)


def _card(parameters: float, flops: float, **scores: float) -> Card:
    named = {"ImageNet top-1" + (", timm's training" if key == "timm" else ""): score for key, score in scores.items()}
    return Card(paper=PAPER, parameters=parameters, flops=flops, flops_size=(299, 299), num_classes=1000, scores=named)


TINY = {"width": 0.0625}
register("xception41", AlignedXception, _card(26.97, 9.28, top1=78.55), tiny=TINY, depth=41)
register("xception65", AlignedXception, _card(39.92, 13.96, top1=79.56, timm=83.19), tiny=TINY, depth=65)
register("xception71", AlignedXception, _card(42.34, 18.09, top1=79.92), tiny=TINY, depth=71)
# without a tiny form, so that what is examined small is the paper's
register("xception41p", AlignedXception, _card(26.91, 9.25), depth=41, preact=True, norm_eps=1e-5)
register("xception65p", AlignedXception, _card(39.82, 13.91), depth=65, preact=True)
