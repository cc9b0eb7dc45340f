"""Atrous spatial pyramid pooling (Chen et al., DeepLabV3, arXiv 1706.05587): several fields of view, and the whole image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segmentarium.layers.conv import ConvNormAct, SeparableConv
from segmentarium.layers.pooling import PooledBatchNorm, global_average_pool, spread


def separable(in_channels: int, out_channels: int, dilation: int = 1, *, depthwise_norm: bool = True) -> SeparableConv:
    """A separable 3×3 convolution, with or without norm and ReLU between its halves."""
    conv = SeparableConv(in_channels, out_channels, 3, dilation=dilation)
    if not depthwise_norm:
        conv.depthwise = ConvNormAct(
            in_channels, in_channels, 3, dilation=dilation, groups=in_channels, bias=False, norm=None, act=None
        )
    return conv


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling (DeepLabV3, 1706.05587, figure 5): a 1×1 and three dilated convolutions and the mean
    of the image, concatenated and projected.  (B, C, H, W) -> (B, channels, H, W)

    separable  the dilated convolutions are separable (V3+), else plain (V3)
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        rates: Sequence[int] = (6, 12, 18),
        *,
        separable_convs: bool = True,
        projection_kernel: int = 1,
        image_pool_first: bool = True,
        depthwise_norm: bool = True,
    ) -> None:
        super().__init__()
        self.image_pool_first = image_pool_first
        self.image_pool = ConvNormAct(in_channels, channels, 1, norm=PooledBatchNorm)
        self.branches = nn.ModuleList([ConvNormAct(in_channels, channels, 1)])
        for rate in rates:
            if separable_convs:
                self.branches.append(separable(in_channels, channels, rate, depthwise_norm=depthwise_norm))
            else:
                self.branches.append(ConvNormAct(in_channels, channels, 3, dilation=rate))
        self.project = ConvNormAct((len(self.branches) + 1) * channels, channels, projection_kernel)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        image = spread(self.image_pool(global_average_pool(x)), height, width)
        views = [branch(x) for branch in self.branches]
        return self.project(torch.cat([image, *views] if self.image_pool_first else [*views, image], 1))
