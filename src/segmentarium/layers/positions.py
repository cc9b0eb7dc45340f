"""Learned tables of positions, at another size than they were learned at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_positions(
    table: Tensor,
    grid: Sequence[int],
    size: Sequence[int],
    *,
    prefix: int = 0,
    mode: Literal["bicubic", "bilinear"] = "bicubic",
    antialias: bool = True,
) -> Tensor:
    """A table (1, prefix + h·w, C), learned on `grid` = (h, w), -> (1, prefix + H·W, C) for `size` = (H, W).

    Rows of the `prefix` tokens (the class token's first) stay as they are; the others are interpolated, bicubically unless
    `mode` says otherwise: with antialiasing, as timm does, or without, as the authors of many transformers do (another kernel,
    even where they get more).  The same table where the sizes agree.

    Raises ValueError for a table that has not as many rows.
    """
    if table.shape[1] != prefix + grid[0] * grid[1]:
        raise ValueError(
            f"the position table has {table.shape[1]} rows; {prefix} of prefix tokens and a grid of {grid[0]}×{grid[1]} "
            f"are {prefix + grid[0] * grid[1]}"
        )
    if not torch.compiler.is_exporting() and tuple(grid) == tuple(size):
        return table  # an exported graph interpolates whatever the size
    kept, places = table[:, :prefix], table[:, prefix:]
    places = places.transpose(1, 2).unflatten(2, tuple(grid)).float()
    places = F.interpolate(places, tuple(size), mode=mode, antialias=antialias)
    return torch.cat([kept, places.flatten(2).transpose(1, 2).to(table.dtype)], 1)
