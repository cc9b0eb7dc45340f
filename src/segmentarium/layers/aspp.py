"""Atrous spatial pyramid pooling (Chen et al., DeepLabV3, arXiv 1706.05587): several fields of view, and the whole image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.layers.conv import ConvNormAct, SeparableConv
from segmentarium.layers.pooling import PooledBatchNorm, global_average_pool, spread
from segmentarium.layers.resize import resize


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

    separable_convs  the dilated convolutions are separable (V3+), else plain (V3)
    pool_norm        a norm follows the mean's convolution; without it that has a bias
    pool_window      (height, width) in the map's pixels: means are taken of windows of this size, one for each place that they
                     have in the map, and spread bilinearly (detectron2, where it is the map of a training crop); of a smaller
                     map all of a side is one window.  An exported graph takes no smaller maps.
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
        pool_norm: bool = True,
        pool_window: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.image_pool_first, self.pool_window = image_pool_first, pool_window
        self.image_pool = ConvNormAct(in_channels, channels, 1, norm=PooledBatchNorm if pool_norm else None)
        self.branches = nn.ModuleList([ConvNormAct(in_channels, channels, 1)])
        for rate in rates:
            if separable_convs:
                self.branches.append(separable(in_channels, channels, rate, depthwise_norm=depthwise_norm))
            else:
                self.branches.append(ConvNormAct(in_channels, channels, 3, dilation=rate))
        self.project = ConvNormAct((len(self.branches) + 1) * channels, channels, projection_kernel)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if self.pool_window is None:
            image = spread(self.image_pool(global_average_pool(x)), height, width)
        else:
            window = tuple(self.pool_window)
            if not torch.compiler.is_exporting():
                window = (min(window[0], height), min(window[1], width))
            image = resize(self.image_pool(F.avg_pool2d(x, window, 1)), (height, width))
        views = [branch(x) for branch in self.branches]
        return self.project(torch.cat([image, *views] if self.image_pool_first else [*views, image], 1))
