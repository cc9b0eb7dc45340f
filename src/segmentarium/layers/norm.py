"""Layer norm over the channels of a map, and the two orders that a map's dimensions come in."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def channels_first(x: Tensor) -> Tensor:
    """(B, H, W, C) -> (B, C, H, W), a view."""
    return x.permute(0, 3, 1, 2)


def channels_last(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H, W, C), a view."""
    return x.permute(0, 2, 3, 1)


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels at each position, (B, C, H, W) -> the same shape (ConvNeXt, 2201.03545; SAM's neck).

    It goes through PyTorch's fused kernel on a view, which costs nothing for maps in channels-last memory.
    """

    def forward(self, input: Tensor) -> Tensor:
        return channels_first(
            F.layer_norm(channels_last(input), self.normalized_shape, self.weight, self.bias, self.eps)
        )


class L2Norm(nn.Module):
    """Features of unit length at each position times a learned factor for each channel, (B, C, H, W) -> the same shape
    (ParseNet, 1506.04579, section 3.3; SSD).

    scale  that the factors start at
    eps    added to the squared length, under the root
    """

    def __init__(self, channels: int, scale: float = 1.0, eps: float = 1e-10) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.full((channels,), float(scale)))

    def forward(self, x: Tensor) -> Tensor:
        # squares of half-precision numbers leave their range
        length = (x.float().square().sum(1, keepdim=True) + self.eps).sqrt()
        return (x / length * self.weight[:, None, None]).to(x.dtype)
