"""ResNeXt: the middle convolution of a bottleneck in groups, which makes many narrow paths of one wide one.

Width, depth and the number of paths ("cardinality") are what a network can be enlarged by; the paper finds the third worth most
at equal cost.  "32x4d" is 32 groups of 4 channels each in the first stage.

What the public code does and the paper does not say: nothing that ResNet's does not (`resnet.py`).  What we change: nothing.
Published (ImageNet top-1, one crop): 77.8 (50, 32x4d), 78.8 (101, 32x4d), 79.6 (101, 64x4d).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.backbones.resnet import BLOCKS, ResidualBlock, ResidualNet, shortcut
from segmentarium.layers.conv import ConvNormAct
from segmentarium.registry import Card, Paper, register


class GroupedBottleneck(ResidualBlock):
    """1×1, 3×3 in groups, 1×1, beside the shortcut (figure 3c)."""

    def __init__(
        self,
        in_channels: int,
        width: int,
        stride: int,
        rates: tuple[int, int],
        average: bool,
        *,
        groups: int,
        group_width: float,
    ) -> None:
        super().__init__()
        inner = int(width * group_width) * groups
        self.conv1 = ConvNormAct(in_channels, inner, 1)
        self.conv2 = ConvNormAct(inner, inner, 3, stride, dilation=rates[0], groups=groups)
        self.conv3 = ConvNormAct(inner, 4 * width, 1, act=None)
        self.shortcut = shortcut(in_channels, 4 * width, stride, average)

    def last_norm(self) -> nn.Module:
        return self.conv3.norm

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv3(self.conv2(self.conv1(x)))
        y += self.shortcut(x)
        return F.relu(y, inplace=True)


class ResNeXt(ResidualNet):
    """50, 101 or 152 layers with grouped convolutions.

    groups        of each 3×3 convolution
    group_width   channels of a group in the first stage, at a `width` of 64; doubled from stage to stage

    The other arguments are ResNet's.
    """

    def __init__(
        self,
        *,
        depth: int = 50,
        groups: int = 32,
        group_width: int = 4,
        width: int = 64,
        in_channels: int = 3,
        output_stride: int = 32,
        out_indices: Sequence[int] = (1, 2, 3, 4),
        num_classes: int | None = None,
    ) -> None:
        if depth not in (50, 101, 152):
            raise ValueError(f"depth is {depth}; a ResNeXt has 50, 101 or 152 layers")
        _, depths = BLOCKS[depth]
        super().__init__(
            partial(GroupedBottleneck, groups=groups, group_width=group_width / 64),
            4,
            depths,
            width=width,
            in_channels=in_channels,
            output_stride=output_stride,
            deep_stem=None,
            average_shortcut=False,
            out_indices=out_indices,
            num_classes=num_classes,
        )


PAPER = Paper(
    title="Aggregated Residual Transformations for Deep Neural Networks",
    authors="Xie, Girshick, Dollár, Tu, He",
    venue="CVPR",
    year=2017,
    url="https://arxiv.org/abs/1611.05431",
    code="https://github.com/facebookresearch/ResNeXt",
    code_licence="BSD-3-Clause",
)
TINY = {"width": 16, "groups": 4, "group_width": 16}
# millions of parameters and 1e9 multiply-adds as torchvision and timm publish them
for _depth, _groups, _width, _parameters, _flops, _top1 in (
    (50, 32, 4, 25.03, 4.23, 77.8),
    (101, 32, 4, 44.18, 7.97, 78.8),
    (101, 32, 8, 88.79, 16.41, None),
    (101, 64, 4, 83.46, 15.46, 79.6),
):
    register(
        f"resnext{_depth}_{_groups}x{_width}d",
        ResNeXt,
        Card(
            paper=PAPER,
            parameters=_parameters,
            flops=_flops,
            flops_size=(224, 224),
            num_classes=1000,
            scores={"ImageNet top-1, one crop": _top1} if _top1 else {},
        ),
        tiny=TINY,
        depth=_depth,
        groups=_groups,
        group_width=_width,
    )
