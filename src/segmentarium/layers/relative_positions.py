"""Where two places of a grid stand to each other, as the row of a learned table."""

from __future__ import annotations

import torch
from torch import Tensor


def relative_index(height: int, width: int, device: torch.device | None = None) -> Tensor:
    """(N, N) for the N = height·width places of a grid, row by row: entry (i, j) is the row of a table of
    (2·height - 1)·(2·width - 1) that belongs to the step from j to i: first by rows, -(height - 1) to height - 1, then by
    columns (Swin, 2103.14030, section 3.2; BEiT, 2106.08254).
    """
    y = torch.arange(height, device=device)[:, None].expand(height, width).flatten()
    x = torch.arange(width, device=device).expand(height, width).flatten()
    down = y[:, None] - y + height - 1
    right = x[:, None] - x + width - 1
    return down * (2 * width - 1) + right
