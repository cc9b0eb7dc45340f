"""ResNet, with the variants that segmentation networks stand on.

The authors' code is for Caffe.  We follow the form that everybody holds weights of (torchvision, BSD-3; timm, Apache-2.0): the
stride of a bottleneck sits in its 3×3 convolution ("v1.5"), not in the first 1×1 (`stride_first`, for networks on the authors').

v1c   a stem of three 3×3 convolutions (32, 32, 64) instead of one 7×7       (mmsegmentation's ResNetV1c, timm's resnet50c)
v1d   v1c, and shortcuts that average before they project                     (He et al., 1812.01187; timm's resnet50d)
v1s   v1c with a stem twice as wide (64, 64, 128)                             (hszhao/semseg, timm's resnet50s)

Output stride 8 or 16 replaces the stride of the last stages by dilation (DeepLab, 1606.00915).  Public implementations do
not agree in which convolutions are dilated, and their weights are only worth what they promise in the same arrangement:
torchvision, timm and mmsegmentation let the first block of a dilated stage keep the rate of the stage before
(`contract_dilation`), semseg and segmentation-models-pytorch dilate it in full; in a basic block mmsegmentation dilates
the first convolution only (`dilate_both=False`), the others both.

Published (ImageNet top-1, ten crops, tables 2 and 3): ResNet-18 72.1, -34 75.0, -50 77.2, -101 78.3, -152 78.6.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.contracts import Backbone
from segmentarium.layers.conv import ConvNormAct
from segmentarium.layers.init import init_convs
from segmentarium.registry import Card, Paper, register


class Stem(nn.Sequential):
    """Image -> stride 2: one 7×7 convolution, or three 3×3 (v1c, v1d, v1s)."""

    def __init__(self, in_channels: int, width: int, deep: Sequence[int] | None) -> None:
        if deep is None:
            super().__init__(ConvNormAct(in_channels, width, 7, 2))
        else:
            widths = (in_channels, *deep)
            super().__init__(*(ConvNormAct(widths[i], widths[i + 1], 3, 2 if i == 0 else 1) for i in range(len(deep))))


def shortcut(in_channels: int, out_channels: int, stride: int, average: bool) -> nn.Module:
    """The identity where shapes agree, else a 1×1 projection; v1d averages 2×2 pixels instead of taking every fourth."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    if not average:
        return ConvNormAct(in_channels, out_channels, 1, stride, act=None)
    pool = nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False) if stride == 2 else nn.Identity()
    return nn.Sequential(pool, ConvNormAct(in_channels, out_channels, 1, act=None))


class ResidualBlock(nn.Module):
    """A block that ends in a sum; `last_norm` stands before it."""

    def last_norm(self) -> nn.Module:
        raise NotImplementedError


class BasicBlock(ResidualBlock):
    """Two 3×3 convolutions beside the shortcut (figure 5, left)."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int, rates: tuple[int, int], average: bool) -> None:
        super().__init__()
        self.conv1 = ConvNormAct(in_channels, width, 3, stride, dilation=rates[0])
        self.conv2 = ConvNormAct(width, width, 3, dilation=rates[1], act=None)
        self.shortcut = shortcut(in_channels, width, stride, average)

    def last_norm(self) -> nn.Module:
        return self.conv2.norm

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.conv1(x))
        y += self.shortcut(x)
        return F.relu(y, inplace=True)


class Bottleneck(ResidualBlock):
    """1×1 down to a quarter of the channels, 3×3, 1×1 up again, beside the shortcut (figure 5, right)."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int, rates: tuple[int, int], average: bool) -> None:
        super().__init__()
        self.conv1 = ConvNormAct(in_channels, width, 1)
        self.conv2 = ConvNormAct(width, width, 3, stride, dilation=rates[0])
        self.conv3 = ConvNormAct(width, 4 * width, 1, act=None)
        self.shortcut = shortcut(in_channels, 4 * width, stride, average)

    def last_norm(self) -> nn.Module:
        return self.conv3.norm

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv3(self.conv2(self.conv1(x)))
        y += self.shortcut(x)
        return F.relu(y, inplace=True)


BLOCKS: dict[int, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {  # table 1 of the paper
    18: (BasicBlock, (2, 2, 2, 2)),
    26: (Bottleneck, (2, 2, 2, 2)),  # not the paper's: timm's and transformers'
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}


class ResidualNet(Backbone):
    """A stem, a pooling and four stages of residual blocks: ResNet and its kin.

    block   (input channels, width, stride, rates, average_shortcut) -> a block that gives `expansion` times `width` channels
    depths  blocks of each stage
    The other arguments are ResNet's.
    """

    def __init__(
        self,
        block: Callable[[int, int, int, tuple[int, int], bool], ResidualBlock],
        expansion: int,
        depths: Sequence[int],
        *,
        width: int,
        in_channels: int,
        output_stride: int,
        deep_stem: Sequence[int] | None,
        average_shortcut: bool,
        out_indices: Sequence[int],
        num_classes: int | None,
        first_stride: int = 1,
        multigrid: Sequence[int] | None = None,
        contract_dilation: bool = True,
        dilate_both: bool = True,
    ) -> None:
        super().__init__(in_channels=in_channels, num_classes=num_classes)
        if output_stride not in (8, 16, 32):
            raise ValueError(f"output_stride is {output_stride}; a {type(self).__name__} can have 8, 16 or 32")
        self.stem = Stem(in_channels, width, deep_stem)
        self.pool = nn.MaxPool2d(3, 2, 1)

        channels, strides = [deep_stem[-1] if deep_stem else width], [2]
        layers: list[nn.Sequential] = []
        stride, rate = 4, 1
        for stage, blocks in enumerate(depths):
            step = first_stride if stage == 0 else 2
            before = rate
            if stride * step > output_stride * first_stride:
                rate, step = rate * step, 1
            stride *= step
            rates = [rate] * blocks
            if contract_dilation:
                rates[0] = before
            if stage == 3 and multigrid is not None:
                rates = list(multigrid)
            inner, inputs = width * 2**stage, channels[-1]
            layer = nn.Sequential()
            for i, first in enumerate(rates):
                second = 1 if not dilate_both else (multigrid[i] if stage == 3 and multigrid else rate)
                layer.append(block(inputs, inner, step if i == 0 else 1, (first, second), average_shortcut))
                inputs = inner * expansion
            layers.append(layer)
            channels.append(inputs)
            strides.append(stride)
        self.layer1, self.layer2, self.layer3, self.layer4 = layers
        self.describe(channels, strides, out_indices)
        self._initialise()

    def _initialise(self) -> None:
        init_convs(self, mode="fan_out")
        for module in self.modules():
            if isinstance(module, ResidualBlock):
                norm = module.last_norm()
                assert isinstance(norm, nn.BatchNorm2d)
                nn.init.zeros_(norm.weight)  # every block starts as its shortcut (Goyal et al., 1706.02677)

    def pyramid(self, image: Tensor) -> list[Tensor]:
        """-> features of the stem and of the four stages"""
        features = [self.stem(image)]
        x = self.pool(features[0])
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            features.append(x)
        return features

    num_layers = 5

    def layer_of(self, name: str) -> int:
        return ("stem", "layer1", "layer2", "layer3", "layer4", "classifier").index(name.partition(".")[0])


class ResNet(ResidualNet):
    """A residual network of 18, 26, 34, 50, 101 or 152 layers.

    depths             blocks of each of the four stages; None: those of `depth`, which also says what blocks they are
    width              channels of the stem and the first stage, doubled from stage to stage; 64 as published
    output_stride      32 as published; 16 or 8: later stages dilated instead of strided
    deep_stem          channels of the three 3×3 convolutions of the stem; None: one 7×7
    average_shortcut   v1d's shortcuts
    first_stride       of layer1: 1 as published; 2 for FANet's extra reduction, which halves all maps from there on
    multigrid          the dilations of layer4's blocks themselves, e.g. (2, 4, 8): DeepLabV3's unit rates (1, 2, 4) times
                       the stage's 2 at output stride 16.  (mmsegmentation's "mg124" models use (1, 2, 4) as they are.)
    contract_dilation  the first block of a dilated stage keeps the rate of the stage before
    dilate_both        both convolutions of a basic block are dilated, not only the first
    stride_first       bottlenecks stride in their first 1×1 convolution, as the authors' do
    out_indices        which features come out, in timm's numbering: 0 the stem's (stride 2), 1 to 4 the stages' (strides
                       4 to 32).  Most decoders want 1 to 4, the default; U-Net-like ones want 0 too
    num_classes        classes of `classify`; None: no classifier
    """

    def __init__(
        self,
        *,
        depth: int = 50,
        depths: Sequence[int] | None = None,
        width: int = 64,
        in_channels: int = 3,
        output_stride: int = 32,
        deep_stem: Sequence[int] | None = None,
        average_shortcut: bool = False,
        first_stride: int = 1,
        multigrid: Sequence[int] | None = None,
        contract_dilation: bool = True,
        dilate_both: bool = True,
        stride_first: bool = False,
        out_indices: Sequence[int] = (1, 2, 3, 4),
        num_classes: int | None = None,
    ) -> None:
        if depth not in BLOCKS:
            raise ValueError(f"depth is {depth}; a ResNet has {', '.join(map(str, BLOCKS))} layers")
        block, published = BLOCKS[depth]
        depths = published if depths is None else depths
        if len(depths) != 4 or min(depths) < 1:
            raise ValueError(f"depths is {tuple(depths)}; give the numbers of blocks of four stages, each 1 or more")
        if multigrid is not None and len(multigrid) != depths[3]:
            raise ValueError(f"multigrid has {len(multigrid)} rates; layer4 has {depths[3]} blocks")
        super().__init__(
            block,
            block.expansion,
            depths,
            width=width,
            in_channels=in_channels,
            output_stride=output_stride,
            deep_stem=deep_stem,
            average_shortcut=average_shortcut,
            first_stride=first_stride,
            multigrid=multigrid,
            contract_dilation=contract_dilation,
            dilate_both=dilate_both,
            out_indices=out_indices,
            num_classes=num_classes,
        )
        for module in self.modules() if stride_first else ():
            if isinstance(module, Bottleneck):
                first, second = module.conv1.conv, module.conv2.conv
                first.stride, second.stride = second.stride, (1, 1)


PAPER = Paper(
    title="Deep Residual Learning for Image Recognition",
    authors="He, Zhang, Ren, Sun",
    venue="CVPR",
    year=2016,
    url="https://arxiv.org/abs/1512.03385",
    code="https://github.com/KaimingHe/deep-residual-networks",
    code_licence="MIT",
)


def _card(parameters: float | None = None, flops: float | None = None, top1: float | None = None) -> Card:
    scores = {} if top1 is None else {"ImageNet top-1, ten crops": top1}
    return Card(
        paper=PAPER,
        parameters=parameters,
        flops=flops,
        flops_size=(224, 224) if flops else None,
        num_classes=1000,
        scores=scores,
    )


def _tiny(depth: int) -> dict[str, Any]:
    """Of bottlenecks few; layer4 keeps the three that a multigrid speaks of."""
    return {"width": 16} if BLOCKS[depth][0] is BasicBlock else {"width": 16, "depths": [1, 1, 2, 3]}


def deep_tiny(depth: int) -> dict[str, Any]:
    """The same with a deep stem."""
    return {**_tiny(depth), "deep_stem": [8, 8, 16]}


# millions of parameters and 1e9 multiply-adds as torchvision (plain) and timm (v1c, v1d, v1s) publish them
for _depth, _parameters, _flops, _top1 in (
    (18, 11.69, 1.81, 72.12),
    (26, 16.00, 2.36, None),
    (34, 21.80, 3.66, 74.97),
    (50, 25.56, 4.09, 77.15),
    (101, 44.55, 7.80, 78.25),
    (152, 60.19, 11.51, 78.57),
):
    register(f"resnet{_depth}", ResNet, _card(_parameters, _flops, _top1), tiny=_tiny(_depth), depth=_depth)
for _depth in (18, 34, 50, 101):  # mmsegmentation's, and so its dilation
    register(
        f"resnet{_depth}_v1c",
        ResNet,
        _card(),
        tiny=deep_tiny(_depth),
        depth=_depth,
        deep_stem=(32, 32, 64),
        dilate_both=False,
    )
for _depth, _parameters in ((18, 11.71), (34, 21.82), (50, 25.58), (101, 44.57)):
    register(
        f"resnet{_depth}_v1d",
        ResNet,
        _card(_parameters),
        tiny=deep_tiny(_depth),
        depth=_depth,
        deep_stem=(32, 32, 64),
        average_shortcut=True,
    )
for _depth in (18, 50, 101):  # semseg's, and so its dilation; 18 is SFNet's
    register(
        f"resnet{_depth}_v1s",
        ResNet,
        _card(),
        tiny=deep_tiny(_depth),
        depth=_depth,
        deep_stem=(64, 64, 128),
        contract_dilation=False,
    )
