"""Points as classes of cells of 8×8 pixels, and back: which pixel of its cell a point is, or that there is none (SuperPoint)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from segmentarium.labels import IGNORE_INDEX

CELL = 8  # pixels of a cell's side
DUSTBIN = CELL * CELL  # the class of a cell without a point


def scores_of_cells(logits: Tensor) -> Tensor:
    """(B, 65, h, w) -> (B, 8 h, 8 w): of each pixel the probability, among its cell's and the dustbin, that it is the point."""
    return F.pixel_shuffle(logits.softmax(1)[:, :DUSTBIN], CELL)[:, 0]


def cell_labels(points: Tensor, valid: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
    """A map of points (B, H, W), not 0 where one is, H and W multiples of 8 -> (B, H / 8, W / 8) int64: dy · 8 + dx of the
    cell's point, by lot where it has several; 64 where it has none.

    valid       (B, H, W): a cell is labelled 255, which counts nowhere, unless all its pixels are
    generator   draws the lots; None: PyTorch's own
    """
    if points.shape[-2] % CELL or points.shape[-1] % CELL:
        raise ValueError(f"the map of points is {tuple(points.shape[-2:])}; give sides that are multiples of {CELL}")
    cells = F.pixel_unshuffle((points != 0).float()[:, None], CELL)
    lots = torch.rand(cells.shape, generator=generator, device=cells.device)
    found, labels = (cells + cells * lots).max(1)  # from 1 on where there is a point
    labels = labels.masked_fill(found < 1, DUSTBIN)
    if valid is None:
        return labels
    whole = F.pixel_unshuffle((valid != 0).float()[:, None], CELL).amin(1) > 0
    return labels.masked_fill(~whole, IGNORE_INDEX)
