"""The block of MobileNetV2 and of everything searched from it."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.layers.conv import ConvNormAct


class InvertedResidual(nn.Module):
    """1×1 up, depthwise, linear 1×1 down; a shortcut between equal shapes (Sandler et al., 1801.04381, figure 4d).

    expand   whether there is a 1×1 up; None: where it widens, as published
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        expansion: int,
        stride: int,
        dilation: int = 1,
        *,
        kernel_size: int = 3,
        act: Callable[[], nn.Module] = nn.ReLU6,
        expand: bool | None = None,
    ) -> None:
        super().__init__()
        self.padding = 0  # of the block's input, where its depthwise convolution does not pad
        width = expansion * in_channels
        self.residual = stride == 1 and in_channels == out_channels
        widens = expansion != 1 if expand is None else expand
        self.expand = ConvNormAct(in_channels, width, 1, act=act) if widens else nn.Identity()
        self.depthwise = ConvNormAct(width, width, kernel_size, stride, dilation=dilation, groups=width, act=act)
        self.project = ConvNormAct(width, out_channels, 1, act=None)

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(x, (self.padding,) * 4) if self.padding else x
        y = self.project(self.depthwise(self.expand(padded)))
        if self.residual:
            y += x
        return y
