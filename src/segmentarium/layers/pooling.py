"""Pooling to a few cells: exact, differentiable, and exportable at any input size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def global_average_pool(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, 1, 1)"""
    return x.mean((2, 3), keepdim=True)


def spread(x: Tensor, height: int, width: int) -> Tensor:
    """(B, C, 1, 1) -> (B, C, height, width), the one value everywhere: what bilinear resizing of a single cell gives,
    without asking an engine for a resize from size one, which several get wrong."""
    return x.expand(-1, -1, height, width)


def _cells(size: int, bins: int, like: Tensor) -> Tensor:
    """(bins, size): row i averages the pixels from floor(i·size/bins) up to ceil((i+1)·size/bins)."""
    cell = torch.arange(bins, device=like.device).unsqueeze(1)
    start = cell * size // bins
    end = ((cell + 1) * size + bins - 1) // bins
    pixel = torch.arange(size, device=like.device)
    inside = (pixel >= start) & (pixel < end)
    return inside.to(like.dtype) / (end - start).to(like.dtype)


def adaptive_average_pool(x: Tensor, bins: int | tuple[int, int]) -> Tensor:
    """(B, C, H, W) -> (B, C, *bins), or (B, C, bins, bins); equal to `F.adaptive_avg_pool2d(x, bins)`.

    ONNX has no such operator for sizes that are only known at run time.  While exporting, the same averages are taken by
    two small matrices, one for the rows and one for the columns, which are made from the size inside the graph.
    """
    if bins == 1:
        return global_average_pool(x)
    if not torch.compiler.is_exporting():
        return F.adaptive_avg_pool2d(x, bins)
    rows, columns = (bins, bins) if isinstance(bins, int) else bins
    height, width = x.shape[-2:]
    return _cells(height, rows, x) @ x @ _cells(width, columns, x).transpose(0, 1)


class PooledBatchNorm(nn.BatchNorm2d):
    """Batch norm of a pooled map, which also learns where a batch of one image has a single place left.

    One image pooled to 1×1 gives one value a channel, which has no variance: PyTorch's batch norm raises an error then.
    Here such a batch is normalised by the running statistics, as in eval mode, and leaves them as they are.
    """

    def forward(self, input: Tensor) -> Tensor:
        if self.training and input.shape[0] * input.shape[2] * input.shape[3] == 1:
            return F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
            )
        return super().forward(input)
