"""Supervision of a boundary map: is there a border between two classes here (MSFNet; Si et al., arXiv 1911.07217)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segmentarium.labels import IGNORE_INDEX
from segmentarium.losses.base import pixel_cross_entropy, safe_divide
from segmentarium.losses.boundary_band import boundary_band


class ClassBoundary(nn.Module):
    """Binary cross entropy of one boundary logit against the boundaries of the label map.

    Boundary pixels are few, so they and the others each make up half of the loss (the balance of HED, arXiv 1504.06375).

    Args:
        size: of the square window, odd; a pixel is on a boundary if the window around it sees two labels.
        ignore_index: the label that counts nowhere and makes no boundary.
    """

    def __init__(self, size: int = 9, ignore_index: int = IGNORE_INDEX) -> None:
        super().__init__()
        if size < 3 or size % 2 == 0:
            raise ValueError(f"size is {size}; give an odd number of pixels, 3 or more")
        self.size = size
        self.ignore_index = ignore_index

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """logits (B, 1, H, W), target (B, H, W) of labels -> float32 scalar, 0 where nothing is labelled"""
        if logits.shape[1] != 1 or logits.shape[2:] != target.shape[1:]:
            raise ValueError(
                f"logits have shape {tuple(logits.shape)} and target {tuple(target.shape)}; "
                "give one boundary logit (B, 1, H, W) for each label of (B, H, W)"
            )
        with torch.autocast(logits.device.type, enabled=False):
            valid = target != self.ignore_index
            boundary = boundary_band(target, self.size, self.ignore_index)
            loss = pixel_cross_entropy(logits.float(), boundary.long(), valid)
            rest = valid & ~boundary
            parts = [safe_divide((loss * part).sum(), part.sum()) for part in (boundary, rest)]
            return (parts[0] + parts[1]) / 2

    def extra_repr(self) -> str:
        return f"size={self.size}, ignore_index={self.ignore_index}"
