"""Where a place of a map is, as sines and cosines (Carion et al., DETR, 2005.12872, appendix A.4)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def sine_positions(size: Sequence[int], channels: int, like: Tensor, *, temperature: float = 10000.0) -> Tensor:
    """(1, h · w, channels) for a map of `size` = (h, w), row by row: first the row's sines and cosines, then the column's, of
    angles that go from 0 to 2π over the whole map; of `like`'s type and device.

    Raises ValueError where 4 does not divide `channels`.
    """
    if channels % 4:
        raise ValueError(f"{channels} channels cannot hold sine and cosine of both coordinates; give a multiple of 4")
    rate = temperature ** (torch.arange(channels // 4, device=like.device) * (4 / channels))

    def along(count: int) -> Tensor:
        steps = torch.arange(1, count + 1, device=like.device, dtype=torch.float32)
        angles = (steps / (steps[-1:] + 1e-6) * (2 * math.pi))[:, None] / rate
        return torch.stack((angles.sin(), angles.cos()), 2).flatten(1)

    height, width = size
    rows, columns = along(height)[:, None].expand(-1, width, -1), along(width)[None].expand(height, -1, -1)
    return torch.cat((rows, columns), 2).flatten(0, 1)[None].to(like.dtype)
