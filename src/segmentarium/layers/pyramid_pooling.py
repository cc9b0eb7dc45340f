"""Pyramid pooling (Zhao et al., PSPNet, CVPR 2017): what a pixel sees of the whole image, half, third and sixth of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segmentarium.layers.conv import ConvNormAct
from segmentarium.layers.pooling import PooledBatchNorm, adaptive_average_pool, spread
from segmentarium.layers.resize import resize


class PyramidPooling(nn.Module):
    """(B, C, H, W) -> (B, C + len(bins) · channels, H, W): the input beside its averages over bins×bins cells, each
    reduced by a 1×1 convolution and brought back to H×W (figure 3c of the paper)."""

    def __init__(
        self, in_channels: int, channels: int, bins: Sequence[int] = (1, 2, 3, 6), *, align_corners: bool = False
    ) -> None:
        super().__init__()
        self.bins = tuple(bins)
        self.align_corners = align_corners
        self.out_channels = in_channels + len(self.bins) * channels
        self.branches = nn.ModuleList(
            ConvNormAct(in_channels, channels, 1, norm=PooledBatchNorm if size == 1 else nn.BatchNorm2d)
            for size in self.bins
        )

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        out = [x]
        for size, branch in zip(self.bins, self.branches, strict=True):
            pooled = branch(adaptive_average_pool(x, size))
            if size == 1:
                out.append(spread(pooled, height, width))
            else:
                out.append(resize(pooled, (height, width), align_corners=self.align_corners))
        return torch.cat(out, 1)
