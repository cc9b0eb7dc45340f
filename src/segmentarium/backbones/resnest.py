"""ResNeSt: a ResNet whose 3×3 convolutions weigh their splits by attention.

A 3×3 convolution gives `radix` maps for each of its `cardinality` groups; what the whole image shows decides, by a softmax
across the radix, how much of each map goes on (equation 3 of section 3.1).  With one split the softmax is a sigmoid.  The rest
is ResNet-D: three 3×3 convolutions for a stem, shortcuts that average before they project.  Blocks that stride do so by a 3×3
average pooling behind the attention, or, in the "fast" networks of the ablation, before it (`pool_first`).

What the public code does and the paper does not say: the attention's scores come group by group and are brought to the order of
the convolution's channels, split by split; its hidden layer has a quarter of the splits' channels, at least 32, and a batch norm.
At output stride 8 or 16 the implementations (zhanghang1989's, Apache-2.0, and those of timm and mmsegmentation, both Apache-2.0)
disagree about a first block that no longer strides, and `form` says which one is meant:
"authors"  it still averages 3×3 pixels, at stride 1
"timm"     it does not; its shortcut averages 2×2 pixels, at stride 1, with zeros beyond the lower and right border
"mmseg"    neither
At output stride 32 they are one network.

What we change: the mean over the image is taken before the splits are added, which is the same sum and reads each map once.

Published (ImageNet top-1, the authors' README; 224, 256, 320 and 416 pixels): ResNeSt-50 81.03, -101 82.83, -200 83.84,
-269 84.54.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.backbones.resnet import ResidualBlock, ResidualNet, shortcut
from segmentarium.layers.conv import ConvNormAct
from segmentarium.layers.pooling import PooledBatchNorm, global_average_pool
from segmentarium.registry import Card, Paper, register

DEPTHS: dict[int, tuple[int, ...]] = {
    14: (1, 1, 1, 1),
    26: (2, 2, 2, 2),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    200: (3, 24, 36, 3),
    269: (3, 30, 48, 8),
}
FORMS = ("authors", "timm", "mmseg")


class SplitAttention(nn.Module):
    """A 3×3 convolution to `radix` maps in `cardinality` groups, weighed and added (figure 2).  (B, C, H, W) -> the same."""

    def __init__(self, channels: int, rate: int, radix: int, cardinality: int) -> None:
        super().__init__()
        self.radix, self.cardinality = radix, cardinality
        hidden = max(channels * radix // 4, 32)
        self.conv = ConvNormAct(channels, channels * radix, 3, dilation=rate, groups=cardinality * radix)
        self.reduce = ConvNormAct(channels, hidden, 1, groups=cardinality, bias=True, norm=PooledBatchNorm)
        self.expand = nn.Conv2d(hidden, channels * radix, 1, groups=cardinality)

    def weights(self, pooled: Tensor) -> list[Tensor]:
        """(B, C, 1, 1) -> of each split, (B, C, 1, 1); at each channel they sum to 1, a single split's is a sigmoid"""
        scores = self.expand(self.reduce(pooled))
        if self.radix == 1:
            return [scores.sigmoid()]
        scores = scores.unflatten(1, (self.cardinality, self.radix, -1)).softmax(2)
        return [split.flatten(1, 2) for split in scores.unbind(2)]

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        splits = x.chunk(self.radix, 1)
        pooled = global_average_pool(x).unflatten(1, (self.radix, -1)).sum(1)
        weights = self.weights(pooled)
        y = splits[0] * weights[0]
        for split, weight in zip(splits[1:], weights[1:], strict=True):
            y = torch.addcmul(y, split, weight)
        return y


class SplitBottleneck(ResidualBlock):
    """ResNet's bottleneck with split attention for its 3×3 convolution, and a pooling for its stride."""

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        width: int,
        stride: int,
        rates: tuple[int, int],
        average: bool,
        *,
        radix: int,
        cardinality: int,
        base_width: int,
        pool_first: bool,
    ) -> None:
        super().__init__()
        inner = int(width * base_width / 64) * cardinality
        self.conv1 = ConvNormAct(in_channels, inner, 1)
        self.conv2 = SplitAttention(inner, rates[0], radix, cardinality)
        self.pool = nn.AvgPool2d(3, stride, 1) if stride > 1 else nn.Identity()
        self.pool_first = pool_first
        self.conv3 = ConvNormAct(inner, 4 * width, 1, act=None)
        self.shortcut = shortcut(in_channels, 4 * width, stride, average)

    def last_norm(self) -> nn.Module:
        return self.conv3.norm

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(x)
        y = self.conv2(self.pool(y)) if self.pool_first else self.pool(self.conv2(y))
        y = self.conv3(y)
        y += self.shortcut(x)
        return F.relu(y, inplace=True)


class ResNeSt(ResidualNet):
    """A ResNeSt of 14, 26, 50, 101, 200 or 269 layers.

    radix, cardinality, base_width   splits of a group, groups, and channels of one where a block is 64 wide: "2s1x64d"
    pool_first     blocks that stride average before their 3×3 convolution (the "fast" networks), not behind it
    form           "authors", "timm" or "mmseg": what a first block does where dilation takes its stride, see above
    width, deep_stem, output_stride, out_indices, num_classes   as ResNet's
    """

    def __init__(
        self,
        *,
        depth: int = 50,
        width: int = 64,
        radix: int = 2,
        cardinality: int = 1,
        base_width: int = 64,
        pool_first: bool = False,
        deep_stem: Sequence[int] = (32, 32, 64),
        form: str = "authors",
        in_channels: int = 3,
        output_stride: int = 32,
        out_indices: Sequence[int] = (1, 2, 3, 4),
        num_classes: int | None = None,
    ) -> None:
        if depth not in DEPTHS:
            raise ValueError(f"depth is {depth}; a ResNeSt has {', '.join(map(str, DEPTHS))} layers")
        if form not in FORMS:
            raise ValueError(f"form is {form!r}; give one of {', '.join(map(repr, FORMS))}")
        super().__init__(
            partial(
                SplitBottleneck, radix=radix, cardinality=cardinality, base_width=base_width, pool_first=pool_first
            ),
            SplitBottleneck.expansion,
            DEPTHS[depth],
            width=width,
            in_channels=in_channels,
            output_stride=output_stride,
            deep_stem=deep_stem,
            average_shortcut=True,
            out_indices=out_indices,
            num_classes=num_classes,
        )
        for layer, stride in ((self.layer3, 16), (self.layer4, 32)):
            first = layer[0]
            assert isinstance(first, SplitBottleneck)
            assert isinstance(first.shortcut, nn.Sequential)
            if stride > output_stride and form == "authors":
                first.pool = nn.AvgPool2d(3, 1, 1)
            elif stride > output_stride and form == "timm":
                first.shortcut[0] = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.AvgPool2d(2, 1))


PAPER = Paper(
    title="ResNeSt: Split-Attention Networks",
    authors="Zhang, Wu, Zhang, Zhu, Lin, Zhang, Sun, He, Mueller, Manmatha, Li, Smola",
    venue="CVPR Workshops",
    year=2022,
    url="https://arxiv.org/abs/2004.08955",
    code="https://github.com/zhanghang1989/ResNeSt",
    code_licence="Apache-2.0",
)


def _card(parameters: float, flops: float | None, top1: float | None = None, side: int = 224) -> Card:
    return Card(
        paper=PAPER,
        parameters=parameters,
        flops=flops,
        flops_size=(224, 224) if flops else None,
        num_classes=1000,
        scores={} if top1 is None else {f"ImageNet top-1, {side} pixels": top1},
    )


TINY = {"width": 16, "deep_stem": [8, 8, 16]}
# millions of parameters and 1e9 multiply-adds at 224 pixels: 50 and 101 as the paper has them (tables 3 and 4), 200 and 269 the
# parameters; 14 and 26 are GluonCV's
for _depth, _stem, _parameters, _flops, _top1, _side in (
    (14, 32, 10.61, None, None, 224),
    (26, 32, 17.07, None, None, 224),
    (50, 32, 27.5, 5.39, 81.03, 224),
    (101, 64, 48.3, 10.2, 82.83, 256),
    (200, 64, 70.2, None, 83.84, 320),
    (269, 64, 110.9, None, 84.54, 416),
):
    register(
        f"resnest{_depth}",
        ResNeSt,
        _card(_parameters, _flops, _top1, _side),
        tiny=TINY,
        depth=_depth,
        deep_stem=(_stem, _stem, 2 * _stem),
    )
# the authors' ablation
for _radix, _cardinality, _width, _parameters, _flops, _top1 in (
    (1, 1, 64, 26.3, 4.34, 80.33),
    (2, 1, 64, 27.5, 4.34, 80.53),
    (4, 1, 64, 31.9, 4.35, 80.76),
    (1, 2, 40, 25.9, 4.38, 80.59),
    (2, 2, 40, 26.9, 4.38, 80.97),
    (4, 2, 40, 30.4, 4.41, 80.86),
    (1, 4, 24, 25.7, 4.42, 80.99),
):
    register(
        f"resnest50_fast_{_radix}s{_cardinality}x{_width}d",
        ResNeSt,
        _card(_parameters, _flops, _top1),
        tiny=TINY,
        depth=50,
        radix=_radix,
        cardinality=_cardinality,
        base_width=_width,
        pool_first=True,
    )
