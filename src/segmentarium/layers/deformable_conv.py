"""Deformable convolution (Dai et al., 1703.06211), in plain PyTorch: each tap of the kernel is read at a place of its own.

A plain convolution over the same map says by how many rows and columns each tap is moved; between the cells values are bilinear,
beyond the map they are 0.  All taps of a place are read by one `grid_sample` and weighed by a 1×1 convolution in groups, which
engines have; torchvision's operator gives the same numbers, and no ONNX.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.layers.init import init_convs


class DeformableConv(nn.Conv2d):
    """(B, C, H, W) -> (B, out_channels, H, W) by a kernel of odd size, without bias.

    `offset` gives 2 * kernel² channels: of each tap, row by row, the moves down and to the right; it starts at none.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3, *, groups: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2, groups=groups, bias=False)
        taps = kernel_size * kernel_size
        self.offset = nn.Conv2d(in_channels, 2 * taps, kernel_size, padding=kernel_size // 2)
        init_convs(self)
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.offset.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        rows, columns = self.kernel_size
        taps = rows * columns
        moves = self.offset(x).unflatten(1, (taps, 2)).float()
        tap = torch.arange(taps, device=x.device)
        down, right = tap // columns - rows // 2, tap % columns - columns // 2
        y = torch.arange(height, device=x.device)[:, None] + down[:, None, None] + moves[:, :, 0]
        x_ = torch.arange(width, device=x.device) + right[:, None, None] + moves[:, :, 1]
        grid = torch.stack(((2 * x_ + 1) / width - 1, (2 * y + 1) / height - 1), -1).to(x.dtype)
        # the taps of a place below each other: (B, taps * H, W, 2)
        read = F.grid_sample(x, grid.flatten(1, 2), align_corners=False)
        read = read.reshape(batch, channels * taps, height, width)
        return F.conv2d(read, self.weight.flatten(1)[..., None, None], groups=self.groups)
