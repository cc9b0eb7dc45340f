"""Strip pooling (Hou et al., CVPR 2020, arXiv 2003.13328): averages over whole rows and whole columns of a map."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.layers.conv import ConvNormAct
from segmentarium.layers.pooling import PooledBatchNorm


def pool_strips(x: Tensor) -> tuple[Tensor, Tensor]:
    """(B, C, H, W) -> the mean of each row (B, C, H, 1), and of each column (B, C, 1, W).

    PyTorch's mean is tens of times slower here than its pooling, and forgets that memory was channels-last; pooling to a size
    that is only known at run time cannot be exported.
    """
    if torch.compiler.is_exporting():
        return x.mean(3, keepdim=True), x.mean(2, keepdim=True)
    return F.adaptive_avg_pool2d(x, (None, 1)), F.adaptive_avg_pool2d(x, (1, None))


class StripConvs(nn.Module):
    """(B, C, H, W) -> the same shape: means of rows, a convolution along the column of them, and the same of columns; at each
    place the sum of its row's and its column's, and a ReLU.  So a pixel sees its cross, and the crosses of two neighbours on
    each side."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.rows = ConvNormAct(channels, channels, (3, 1), norm=PooledBatchNorm, act=None)
        self.columns = ConvNormAct(channels, channels, (1, 3), norm=PooledBatchNorm, act=None)

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = pool_strips(x)
        return F.relu(self.rows(rows) + self.columns(columns), inplace=True)


class StripPooling(nn.Module):
    """The strip pooling module (figure 2): (B, C, H, W) -> the same shape, each value times a weight in (0, 1) that its row and
    its column give."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.strips = StripConvs(channels)
        self.weigh = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weigh(self.strips(x)).sigmoid()
