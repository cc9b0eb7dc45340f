"""LR-ASPP: a head for networks on phones, one 1×1 convolution with a gate.

Lite R-ASPP keeps two of ASPP's branches: the deepest map through a 1×1 convolution, and a large average of it that says, through
a sigmoid, how much of each of its channels goes on (section 6.4, figure 10).  Class scores of that and of a finer map are added.

The public networks differ.  `lraspp` is torchvision's (BSD-3): the average is the whole map's, the finer map, of stride 8,
comes from behind the first block of that stride, the deepest has stride 16.  The paper averages windows of 49×49 pixels at a
stride of (16, 20), which suits its pictures of 1024×2048: `pool_size=49`.  `lraspp_mobilenet_v3_large` and `_small` are
mmsegmentation's (Apache-2.0): windows as in the paper, output stride 8, and instead of added scores two steps that each join a
finer map (strides 4 and 2) by a 1×1 convolution.

What we change: a map smaller than the window is averaged whole, where theirs fails.  In `lraspp` scores are resized, not
channels, which gives the same and costs less.

Published: COCO val with the classes of PASCAL VOC 57.9 (torchvision); Cityscapes val 69.54 with Large and 64.11 with Small
(mmsegmentation).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.composition import register_decoder
from segmentarium.contracts import Decoder
from segmentarium.layers.conv import ConvNormAct
from segmentarium.layers.init import init_classifier
from segmentarium.layers.pooling import global_average_pool
from segmentarium.layers.resize import resize
from segmentarium.registry import Card, Paper

POOL_STRIDE = (16, 20)


def _windows(length: int, window: int, step: int, like: Tensor) -> Tensor:
    """(windows, length): row i averages `window` pixels from i·step on."""
    start = torch.arange((length - window) // step + 1, device=like.device).unsqueeze(1) * step
    pixel = torch.arange(length, device=like.device)
    return ((pixel >= start) & (pixel < start + window)).to(like.dtype) / window


def _least(size: int, side: int) -> int:
    """The smaller one, of a side that is open in a graph, too."""
    return torch.sym_min(size, side)  # type: ignore[return-value]


def windowed_average(x: Tensor, size: int, stride: tuple[int, int] = POOL_STRIDE) -> Tensor:
    """(B, C, H, W) -> averages over windows of size×size pixels, or of as many as there are.

    While exporting, where sides are open, by two small matrices that are made inside the graph.
    """
    height, width = x.shape[-2:]
    if not torch.compiler.is_exporting():
        return F.avg_pool2d(x, (min(size, height), min(size, width)), stride)
    rows = _windows(height, _least(size, height), stride[0], x)
    columns = _windows(width, _least(size, width), stride[1], x)
    return rows @ x @ columns.transpose(0, 1)


class LiteASPP(nn.Module):
    """A 1×1 convolution of the map, each channel weighed by a large average.  (B, C, H, W) -> (B, channels, H, W)

    pool_size  side of the windows that are averaged; None: the whole map
    """

    def __init__(
        self, in_channels: int, channels: int, pool_size: int | None, norm: type[nn.Module] | partial = nn.BatchNorm2d
    ) -> None:
        super().__init__()
        self.pool_size = pool_size
        self.conv = ConvNormAct(in_channels, channels, 1, norm=norm)
        self.gate = nn.Conv2d(in_channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.pool_size is None:
            return self.conv(x) * self.gate(global_average_pool(x)).sigmoid()
        gate = self.gate(windowed_average(x, self.pool_size)).sigmoid()
        return self.conv(x) * F.interpolate(gate, size=x.shape[-2:], mode="bilinear", align_corners=True)


class LRASPPDecoder(Decoder):
    """Class scores of the weighed deepest feature, resized, and of a finer one: logits at the finer one's stride.

    The finer feature is the first of stride 8 or more.

    decoder_channels  of the 1×1 convolution
    pool_size         side of the gate's windows: 49 in the paper; None: the whole map, as in torchvision
    """

    prefers_output_stride = 16

    def __init__(
        self,
        *,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        decoder_channels: int = 128,
        pool_size: int | None = None,
    ) -> None:
        super().__init__()
        self.fine = next((i for i, stride in enumerate(strides) if stride >= 8), len(strides) - 1)
        self.aspp = LiteASPP(channels[-1], decoder_channels, pool_size)
        self.fine_classifier = init_classifier(nn.Conv2d(channels[self.fine], num_classes, 1))
        self.classifier = init_classifier(nn.Conv2d(decoder_channels, num_classes, 1))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        fine = features[self.fine]
        return self.fine_classifier(fine) + resize(self.classifier(self.aspp(features[-1])), fine.shape[-2:])


class LRASPPJoinDecoder(Decoder):
    """mmsegmentation's: the weighed deepest feature joins each finer one by a 1×1 convolution: logits at the finest stride.

    decoder_channels  of all convolutions on the way up
    branch_channels   of the finer features, the first ones of the backbone, once reduced
    pool_size         side of the gate's windows; None: the whole map
    norm_eps          epsilon of the batch norms
    """

    prefers_output_stride = 8

    def __init__(
        self,
        *,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        decoder_channels: int = 128,
        branch_channels: Sequence[int] = (32, 64),
        pool_size: int | None = 49,
        norm_eps: float = 1e-3,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if len(channels) <= len(branch_channels):
            raise ValueError(
                f"branch_channels is {tuple(branch_channels)}, which asks for {len(branch_channels)} features beside the "
                f"deepest; this backbone has {len(channels)} features"
            )
        norm = partial(nn.BatchNorm2d, eps=norm_eps)
        self.aspp = LiteASPP(channels[-1], decoder_channels, pool_size, norm)
        self.mix = nn.Conv2d(decoder_channels, decoder_channels, 1)
        self.reduce = nn.ModuleList(
            nn.Conv2d(channels[i], width, 1, bias=False) for i, width in enumerate(branch_channels)
        )
        self.join = nn.ModuleList(
            ConvNormAct(decoder_channels + width, decoder_channels, 1, norm=norm) for width in branch_channels
        )
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = init_classifier(nn.Conv2d(decoder_channels, num_classes, 1))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        x = self.mix(self.aspp(features[-1]))
        for i in reversed(range(len(self.join))):
            x = resize(x, features[i].shape[-2:])
            x = self.join[i](torch.cat([x, self.reduce[i](features[i])], 1))
        return self.classifier(self.dropout(x))


PAPER = Paper(
    title="Searching for MobileNetV3",
    authors="Howard, Sandler, Chu, Chen, Chen, Tan, Wang, Zhu, Pang, Vasudevan, Le, Adam",
    venue="ICCV",
    year=2019,
    url="https://arxiv.org/abs/1905.02244",
    code="https://github.com/tensorflow/models/tree/master/research/deeplab",
    code_licence="Apache-2.0",
)

register_decoder(
    "lraspp",
    LRASPPDecoder,
    Card(
        paper=PAPER,
        parameters=3.22,
        flops=2.086,
        flops_size=(520, 520),
        num_classes=21,
        scores={"COCO val, VOC's classes, mIoU": 57.9},
    ),
    backbone="mobilenet_v3_large",
    backbone_arguments={"contract_dilation": False, "strided_taps": True},
)
for _size, _score in (("large", 69.54), ("small", 64.11)):
    register_decoder(
        f"lraspp_mobilenet_v3_{_size}",
        LRASPPJoinDecoder,
        Card(paper=PAPER, num_classes=19, scores={"Cityscapes val mIoU": _score}),
        backbone=f"mobilenet_v3_{_size}",
        backbone_arguments={"contract_dilation": False, "same_padding": True, "out_indices": [0, 1, 4]},
    )
