"""Moving a feature map along a field of offsets."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def _coordinates(size: int, like: Tensor) -> Tensor:
    """(size,) from -1, the first pixel's centre, to 1, the last one's; a single pixel is at -1."""
    steps = torch.arange(size, device=like.device, dtype=torch.float32)
    return steps * (2.0 / (size - 1 + 1 // size)) - 1.0


def flow_warp(x: Tensor, flow: Tensor) -> Tensor:
    """x (B, C, h, w), flow (B, 2, H, W) -> (B, C, H, W): x enlarged (corners aligned), each pixel read from where its
    flow points, zero outside.  The flow's channels are to the right and down, in halves of an output pixel (nearly: the
    authors of SFNet divide by W and H where corners aligned would mean W - 1 and H - 1)."""
    height, width = flow.shape[-2:]
    flow = flow.float()
    across = _coordinates(width, x) + flow[:, 0] / width
    down = _coordinates(height, x).unsqueeze(1) + flow[:, 1] / height
    grid = torch.stack([across, down], -1)  # (B, H, W, 2)
    # positions need more bits than half precision has
    return F.grid_sample(x.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=True).to(x.dtype)
