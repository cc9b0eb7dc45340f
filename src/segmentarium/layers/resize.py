"""The one way to resize a feature map, and the one way to resize labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def resize(x: Tensor, size: Sequence[int], *, mode: str = "bilinear", align_corners: bool = False) -> Tensor:
    """(B, C, h, w) -> (B, C, *size), float dtype kept; the same tensor where it has that size already.

    Sizes are read as integers from `tensor.shape`, so that torch.export and ONNX keep them dynamic.
    """
    height, width = size
    if x.shape[-2] == height and x.shape[-1] == width:
        return x
    if mode == "nearest":
        return F.interpolate(x, size=(height, width), mode="nearest")
    return F.interpolate(x, size=(height, width), mode=mode, align_corners=align_corners)


def resized_rows(x: Tensor, size: Sequence[int], top: int, bottom: int) -> Tensor:
    """(B, C, h, w) -> (B, C, bottom - top, W): rows `top` to `bottom` of `resize(x, size)`, without the others.

    Equal up to rounding: rows are mixed before columns.
    """
    height, width = size
    low = x.shape[-2]
    if low == height:
        rows = x[..., top:bottom, :]
    else:
        position = (
            (torch.arange(top, bottom, dtype=torch.float64, device=x.device) + 0.5) * (low / height) - 0.5
        ).clamp_(min=0)
        first = position.long().clamp_(max=low - 1)
        share = (position - first).to(x.dtype).view(-1, 1)
        rows = torch.lerp(x[..., first, :], x[..., (first + 1).clamp_(max=low - 1), :], share)
    return resize(rows, (bottom - top, width))


def labels_at(labels: Tensor, size: Sequence[int]) -> Tensor:
    """Integer labels (B, H, W) -> (B, *size) by nearest neighbour."""
    if labels.shape[-2:] == tuple(size):
        return labels
    # label maps hold classes up to 255, which float32 holds exactly
    return F.interpolate(labels[:, None].float(), tuple(size), mode="nearest-exact")[:, 0].to(labels.dtype)


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """(…, H, W), padded below and to the right with zeros, so that `multiple` divides both sides."""
    below, right = -x.shape[-2] % multiple, -x.shape[-1] % multiple
    # an exported graph has to pad whatever the size
    return F.pad(x, (0, right, 0, below)) if torch.compiler.is_exporting() or below or right else x
