"""SPNet: rows and columns as wide as the picture, inside the trunk and in the head.

The authors' code says that it is for non-commercial use; this file was written from the paper, and for what it leaves open from
stored outputs and keys of that code.

Square windows see little of what is long and thin, or far apart in one row.  Strip pooling modules weigh the trunk's features by
the means of rows and columns (backbones/resnet_spm.py; the block "spnet" puts one anywhere).  The head has two mixed pooling
modules: beside each pixel stand averages over 20×20 and 12×12 cells (short range) and over its row and column (long range).

What the public code does and the paper does not say: strips are brought back to the map by repeating them; corners are aligned in
all other resizes; an FCN head on the last stage but one, 0.4 of the weight; the last stage's dilations are 4, 8, 16.
What we change: nothing.

Published (the paper, ResNet-101 unless said): ADE20K val 45.60 (several scales, mirrored), Cityscapes test 82.0, Pascal-Context
54.5.  Weights of the trunk alone were published.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.backbones.resnet_spm import PAPER
from segmentarium.composition import register_decoder
from segmentarium.contracts import Decoder
from segmentarium.layers.conv import ConvNormAct
from segmentarium.layers.init import init_classifier
from segmentarium.layers.pooling import adaptive_average_pool
from segmentarium.layers.resize import resize
from segmentarium.layers.strip_pooling import StripConvs, StripPooling
from segmentarium.registry import Card, register_block


class MixedPooling(nn.Module):
    """The mixed pooling module (figure 4): (B, C, H, W) -> the same shape, x plus what averages of two kinds say.

    bins   cells along a side of the square averages
    """

    def __init__(self, channels: int, bins: Sequence[int] = (20, 12)) -> None:
        super().__init__()
        width = channels // 4
        self.bins = tuple(bins)
        self.reduce_short = ConvNormAct(channels, width, 1)
        self.squares = nn.ModuleList(ConvNormAct(width, width, act=None) for _ in (None, *bins))
        self.mix_short = ConvNormAct(width, width)
        self.reduce_long = ConvNormAct(channels, width, 1)
        self.strips = StripConvs(width)
        self.mix_long = ConvNormAct(width, width)
        self.expand = ConvNormAct(2 * width, channels, 1, act=None)

    def short_range(self, x: Tensor) -> Tensor:
        """(B, C/4, H, W) -> the same shape: the map itself and its averages over cells, each convolved, summed"""
        whole = self.squares[0](x)
        for size, conv in zip(self.bins, list(self.squares)[1:], strict=True):
            whole = whole + resize(conv(adaptive_average_pool(x, size)), x.shape[-2:], align_corners=True)
        return F.relu(whole, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        short = self.mix_short(self.short_range(self.reduce_short(x)))
        long = self.mix_long(self.strips(self.reduce_long(x)))
        y = self.expand(torch.cat([short, long], 1))
        y += x
        return F.relu(y, inplace=True)


class SPDecoder(Decoder):
    """1×1 to half of the deepest feature's channels, two mixed pooling modules, 3×3 to a quarter, the classifier: logits at the
    deepest stride."""

    prefers_output_stride = 8
    auxiliary = True
    align_corners = True

    def __init__(
        self,
        *,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        bins: Sequence[int] = (20, 12),
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        inputs = channels[-1]
        if inputs < 8:
            raise ValueError(f"the deepest feature has {inputs} channels; mixed pooling works with an eighth of them")
        self.reduce = ConvNormAct(inputs, inputs // 2, 1)
        self.pooling = nn.Sequential(*(MixedPooling(inputs // 2, bins) for _ in range(2)))
        self.mix = ConvNormAct(inputs // 2, inputs // 4)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = init_classifier(nn.Conv2d(inputs // 4, num_classes, 1))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        return self.classifier(self.dropout(self.mix(self.pooling(self.reduce(features[-1])))))


register_block("spnet", StripPooling)
# parameters in millions and 1e9 multiply-adds as counted in the authors' code
for _depth, _card in (
    (50, Card(paper=PAPER, parameters=45.37, flops=324.05, flops_size=(512, 1024), num_classes=19)),
    (101, Card(paper=PAPER, num_classes=19, scores={"ADE20K val mIoU, several scales": 45.6, "Cityscapes test mIoU": 82.0})),
):  # fmt: skip
    register_decoder(
        "spnet" if _depth == 50 else f"spnet_resnet{_depth}",
        SPDecoder,
        _card,
        backbone=f"resnet{_depth}_spm",
        backbone_arguments={"multigrid": [4, 8, 16]},
    )
