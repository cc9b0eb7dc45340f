"""MobileNetV2: inverted residuals between narrow maps.

Weights of torchvision (BSD-3) and timm (Apache-2.0) load.

A block widens a narrow map six times, filters it depthwise and narrows it again without an activation: information is
kept in the narrow maps, so the shortcut joins those, and a ReLU6 there would destroy it (section 3.2).

Output stride 8 or 16 dilates the depthwise convolutions of the later stages instead of striding (section 6.3).  As in
timm and transformers, the block that gives up its stride keeps the rate before it; `contract_dilation=False` dilates that one
too (segmentation-models-pytorch), with `dilate_first_only` nothing but the first block of a stage (mmsegmentation).  The last
feature has 320 channels (the paper's segmentation networks, timm, mmsegmentation), or with `final_conv` 1280, after the
convolution that stands before the classifier (segmentation-models-pytorch).

The authors' own weights, which transformers has (`same_padding`, `norm_eps=1e-3`), pad as TensorFlow does; those of the others
were trained with symmetric padding and an epsilon of 1e-5.  The forms that are deeper at a little more width are timm's: stem,
head, first and last stage keep their size (`depth`).

Published (ImageNet top-1): table 4 of the paper: width 1.0: 72.0 with 3.4 M parameters and 300 M multiply-adds; 1.4: 74.7 with
6.9 M and 585 M.  The authors' README has 0.35 to 1.4.  Counted in the public weights: 3.50 M and 6.11 M.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from segmentarium.contracts import Backbone
from segmentarium.layers.conv import ConvNormAct
from segmentarium.layers.init import init_convs
from segmentarium.layers.inverted_residual import InvertedResidual
from segmentarium.layers.pooling import global_average_pool
from segmentarium.layers.same_padding import pad_as_tensorflow
from segmentarium.registry import Card, Paper, register

STAGES = (  # table 2: expansion, channels, blocks, stride
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
LAST_OF_STRIDE = (0, 1, 2, 4, 6)  # the stages after which strides 2, 4, 8, 16, 32 end


def divisible_by_8(channels: float) -> int:
    """The nearest multiple of 8, at least 8, and not less than nine tenths of `channels` (the authors' rounding)."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def blocks_of(stages: Sequence[tuple[int, ...]], depth: float) -> list[int]:
    """How many blocks each stage has at a depth coefficient; the last entry but one of a stage's line is its number of blocks.
    The first and the last stage keep theirs."""
    fixed = (0, len(stages) - 1)
    return [line[-2] if i in fixed else math.ceil(line[-2] * depth) for i, line in enumerate(stages)]


def finish(model: nn.Module, norm_eps: float, same_padding: bool, pad_first: bool = False) -> None:
    """What implementations of one network differ in without another weight: the norms' epsilon, TensorFlow's padding, and
    zeros around a block's input instead of around what its depthwise convolution takes, and none around the image."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = norm_eps
    if same_padding:
        pad_as_tensorflow(model)
    if pad_first:
        for module in model.modules():
            if isinstance(module, InvertedResidual):
                conv = module.depthwise.conv
                module.padding, conv.padding = int(conv.padding[0]), (0, 0)
            elif isinstance(module, ConvNormAct) and module.conv.stride == (2, 2) and module.conv.groups == 1:
                module.conv.padding = (0, 0)  # of the stem


class InvertedResidualNet(Backbone):
    """A stem, a row of stages of inverted residual blocks and a head: MobileNetV2 and its kin.

    stages  (expansion, kernel, channels, blocks, stride) of each, in the order of `LAST_OF_STRIDE`; later ones may be missing
    head    channels of the 1×1 convolution before the classifier; None: neither
    The other arguments are MobileNetV2's.
    """

    layer_row = "stages"

    def __init__(
        self,
        stages: Sequence[tuple[int, int, int, int, int]],
        *,
        stem: int,
        head: int | None,
        in_channels: int,
        output_stride: int,
        contract_dilation: bool,
        final_conv: bool,
        out_indices: Sequence[int],
        num_classes: int | None,
        dilate_first_only: bool = False,
        norm_eps: float = 1e-5,
        same_padding: bool = False,
        pad_first: bool = False,
        dropout: float = 0.2,
    ) -> None:
        super().__init__(in_channels=in_channels, num_classes=num_classes)
        if output_stride not in (8, 16, 32):
            raise ValueError(f"output_stride is {output_stride}; {type(self).__name__} can have 8, 16 or 32")
        self.stem = ConvNormAct(in_channels, stem, 3, 2, act=nn.ReLU6)
        self.stages = nn.ModuleList()
        inputs, channels, strides = stem, [], []
        stride, rate = 2, 1
        for expansion, kernel, outputs, blocks, step in stages:
            before = rate
            if stride * step > output_stride:
                rate, step = rate * step, 1
            stride *= step
            stage = nn.Sequential()
            for i in range(blocks):
                dilation = before if i == 0 and contract_dilation else 1 if i and dilate_first_only else rate
                block_stride = step if i == 0 else 1
                stage.append(InvertedResidual(inputs, outputs, expansion, block_stride, dilation, kernel_size=kernel))
                inputs = outputs
            self.stages.append(stage)
            channels.append(outputs)
            strides.append(stride)
        self.final_conv = final_conv
        self.head = None if head is None else ConvNormAct(inputs, head, 1, act=nn.ReLU6)
        self.dropout = nn.Dropout(0.0 if num_classes is None else dropout)
        if final_conv and head is not None:
            channels[-1] = head
        known = [i for i in LAST_OF_STRIDE if i < len(stages)]
        self.describe([channels[i] for i in known], [strides[i] for i in known], out_indices, head=head)
        init_convs(self, mode="fan_out")
        finish(self, norm_eps, same_padding, pad_first)
        self.num_layers = len(stages) + 1

    def pyramid(self, image: Tensor) -> list[Tensor]:
        """-> features of strides 2 to 32, as far as `out_indices` needs them"""
        x = self.stem(image)
        features = []
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in LAST_OF_STRIDE:
                features.append(x)
            if index == LAST_OF_STRIDE[self.out_indices[-1]]:
                break
        if self.final_conv and self.head is not None and len(features) == len(LAST_OF_STRIDE):
            features[-1] = self.head(x)
        return features

    def embed(self, image: Tensor) -> Tensor:
        if self.head is None:
            return super().embed(image)
        x = self.stem(image)
        for stage in self.stages:
            x = stage(x)
        return self.dropout(global_average_pool(self.head(x)).flatten(1))


class MobileNetV2(InvertedResidualNet):
    """MobileNetV2 at a width multiplier.

    depth              of timm's deeper forms; stem and head then keep their width
    output_stride      32 as published; 16 or 8: later stages dilated instead of strided
    contract_dilation  the block that gives up its stride keeps the rate before it
    dilate_first_only  of a stage's blocks only the first is dilated
    norm_eps           epsilon of the batch norms
    same_padding       TensorFlow's padding
    pad_first          blocks pad what comes in, before the 1×1 up and its norm, and the stem does not pad (VainF's)
    final_conv         the last feature is taken after the 1×1 convolution to 1280 channels
    dropout            before the classifier, in training
    out_indices        which features come out: 0 to 4 for the strides 2 to 32
    num_classes        classes of `classify`; None: no classifier
    """

    def __init__(
        self,
        *,
        width: float = 1.0,
        depth: float = 1.0,
        in_channels: int = 3,
        output_stride: int = 32,
        contract_dilation: bool = True,
        dilate_first_only: bool = False,
        norm_eps: float = 1e-5,
        same_padding: bool = False,
        pad_first: bool = False,
        final_conv: bool = False,
        dropout: float = 0.2,
        out_indices: Sequence[int] = (1, 2, 3, 4),
        num_classes: int | None = None,
    ) -> None:
        ends = width if depth == 1.0 else 1.0
        super().__init__(
            [
                (t, 3, divisible_by_8(c * width), n, s)
                for (t, c, _, s), n in zip(STAGES, blocks_of(STAGES, depth), strict=True)
            ],
            stem=divisible_by_8(32 * ends),
            head=max(1280, divisible_by_8(1280 * ends)) if final_conv or num_classes is not None else None,
            in_channels=in_channels,
            output_stride=output_stride,
            contract_dilation=contract_dilation,
            dilate_first_only=dilate_first_only,
            norm_eps=norm_eps,
            same_padding=same_padding,
            pad_first=pad_first,
            dropout=dropout,
            final_conv=final_conv,
            out_indices=out_indices,
            num_classes=num_classes,
        )


PAPER = Paper(
    title="MobileNetV2: Inverted Residuals and Linear Bottlenecks",
    authors="Sandler, Howard, Zhu, Zhmoginov, Chen",
    venue="CVPR",
    year=2018,
    url="https://arxiv.org/abs/1801.04381",
    code="https://github.com/tensorflow/models/tree/master/research/slim/nets/mobilenet",
    code_licence="Apache-2.0",
)


def _card(parameters: float, flops: float | None, top1: float) -> Card:
    return Card(
        paper=PAPER,
        parameters=parameters,
        flops=flops,
        flops_size=(224, 224) if flops else None,
        num_classes=1000,
        scores={"ImageNet top-1": top1},
    )


register("mobilenet_v2", MobileNetV2, _card(3.50, 0.300, 72.0))
for _name, _width, _parameters, _flops, _top1 in (
    ("035", 0.35, 1.66, 0.059, 60.3),
    ("050", 0.5, 1.97, 0.097, 65.4),
    ("075", 0.75, 2.61, 0.209, 69.8),
    ("130", 1.3, 5.34, 0.509, 74.4),
    ("140", 1.4, 6.11, 0.585, 74.7),
):
    register(f"mobilenet_v2_{_name}", MobileNetV2, _card(_parameters, _flops, _top1), width=_width)
# timm's
register("mobilenet_v2_110d", MobileNetV2, _card(4.52, None, 75.0), width=1.1, depth=1.2)
register("mobilenet_v2_120d", MobileNetV2, _card(5.83, None, 77.3), width=1.2, depth=1.4)
