"""Squeeze and excitation (Hu et al., CVPR 2018, arXiv 1709.01507): every channel weighed by what the whole image shows."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.layers.pooling import global_average_pool


class SqueezeExcite(nn.Module):
    """x times a weight in (0, 1) for each channel: mean over the image, `hidden` channels, back, sigmoid."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, hidden, 1)
        self.expand = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.expand(F.relu(self.reduce(global_average_pool(x)))).sigmoid()
