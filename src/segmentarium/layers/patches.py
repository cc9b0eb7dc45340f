"""A picture as a row of patches, and back."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def patchify(image: Tensor, patch: int) -> Tensor:
    """(B, C, H, W), whose sides `patch` divides, -> (B, H·W / patch², patch²·C): patches row by row, and within one by row, by
    column and, fastest, by channel (MAE, 2111.06377)."""
    cut = image.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))  # (B, C, h, p, w, p)
    return cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def unpatchify(patches: Tensor, grid: Sequence[int], patch: int) -> Tensor:
    """What `patchify` made, of a grid of (h, w) patches, -> (B, C, h·patch, w·patch)"""
    cut = patches.unflatten(1, tuple(grid)).unflatten(3, (patch, patch, -1))  # (B, h, w, p, p, C)
    return cut.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)
