"""Regions of a feature pyramid, brought to one size (RoIAlign, 1703.06870, on the levels of FPN, 1612.03144).

torchvision's operator does it, except on processors, where that goes number by number.  A cell is a weighted sum of a few places
of the map, the same for all channels: there it is computed as a sum of rows of a table, for which PyTorch has a fast operator,
forward and backward.  It takes a fifth of the time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.layers.boxes import areas
from segmentarium.layers.nms import indices

FINEST = 56  # side in pixels up to which a region is seen in the finest level; twice that for each further one
AT_A_TIME = 1024  # regions whose places are held
MOST = 2**12  # samples and places along a side of a cell
PLACE_VALUES = [MOST**i for i in range(4)]


class RoIAlign(nn.Module):
    """[(B, C, h_i, w_i), …] and regions (M, 5): number of the image, x0, y0, x1, y1 in its pixels -> (M, C, size, size).

    strides   of the maps, finest first; with one, all regions are seen in it
    aligned   pixels have their centres at halves; False: torchvision's earlier form
    samples   along each side of a cell; 0: as many as the region has pixels of the map
    pool      a cell is the mean of so many smaller ones along each side, of which each has its samples
    """

    def __init__(
        self, strides: Sequence[int], size: int, *, aligned: bool = True, samples: int = 0, pool: int = 1
    ) -> None:
        super().__init__()
        self.strides, self.size, self.aligned, self.samples, self.pool = tuple(strides), size, aligned, samples, pool

    def levels(self, rois: Tensor) -> Tensor:
        """(M, 5) -> (M,) int64: the level in which each region is seen (equation 1 of FPN)."""
        scale = areas(rois[:, 1:]).clamp(min=0).sqrt()
        return (scale / FINEST + 1e-6).log2().floor().clamp(0, len(self.strides) - 1).long()

    def forward(self, maps: Sequence[Tensor], rois: Tensor, levels: Tensor | None = None) -> Tensor:
        """levels: (M,), where something else than their size tells them"""
        if rois.device.type == "cpu" and not torch.compiler.is_compiling():
            return self._sums(maps, rois, levels)
        if len(maps) == 1 or rois.is_meta:
            return self._cut(maps[0], rois, self.strides[0])
        levels = self.levels(rois) if levels is None else levels
        found = maps[0].new_zeros((rois.shape[0], maps[0].shape[1], self.size, self.size))
        for level, (x, stride) in enumerate(zip(maps, self.strides, strict=True)):
            (own,) = indices(levels == level)
            found[own] = self._cut(x, rois[own], stride)
        return found

    def levels_of(self, rois: Tensor, objects: Tensor, truth: Any) -> Tensor | None:
        """In training: the levels of regions by the labelled object that each stands for; None: by size alone."""
        return None

    def second_look(self, first: Tensor, rois: Tensor, labels: Tensor, look: Callable[..., Tensor]) -> Tensor:
        """The masks of a first look; where they tell of other levels, those of another `look(rois, labels, levels)`."""
        return first

    def _cut(self, x: Tensor, rois: Tensor, stride: int) -> Tensor:
        from torchvision.ops import roi_align

        # in float32: half precision has neither the positions nor, on processors, the operator
        size = (self.size * self.pool,) * 2
        found = roi_align(x.float(), rois, size, 1 / stride, self.samples or -1, self.aligned).to(x.dtype)
        return F.avg_pool2d(found, self.pool) if self.pool > 1 else found

    def _sums(self, maps: Sequence[Tensor], rois: Tensor, levels: Tensor | None) -> Tensor:
        """What `_cut` gives, of all levels."""
        levels = self.levels(rois) if levels is None and len(maps) > 1 else levels
        found, order = [maps[0].new_zeros((0, maps[0].shape[1]))], [torch.zeros(0, dtype=torch.int64)]
        for level, (x, stride) in enumerate(zip(maps, self.strides, strict=True)):
            own = torch.arange(len(rois)) if levels is None else torch.where(levels == level)[0]
            for some in own.split(AT_A_TIME) if len(own) else ():
                places, weights, first, turn = self._places(rois[some], stride, x.shape[-2:])
                table = x.float().permute(0, 2, 3, 1).flatten(0, 2)  # no copy, where x is channels-last
                found.append(F.embedding_bag(places, table, first, mode="sum", per_sample_weights=weights).to(x.dtype))
                order.append(some[turn])
        sums = torch.cat(found).unflatten(0, (-1, self.size, self.size))
        return sums.index_select(0, torch.cat(order).argsort()).permute(0, 3, 1, 2)

    @torch.no_grad()
    def _places(self, rois: Tensor, stride: int, size: Sequence[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What is summed: numbers of places in the maps, row by row, and their weights; of each cell, where its places begin;
        and which region comes when: those that need equally many places come together."""
        height, width = size
        # finite: where a network diverges its loss says so, and not an index
        finite = rois[:, 1:].float().nan_to_num(0.0, 0.0, 0.0)
        corners = finite / stride - (0.5 if self.aligned else 0.0)
        cells = (corners[:, 2:] - corners[:, :2]).clamp(min=0.0 if self.aligned else 1.0) / self.size
        samples = (cells / self.pool).ceil() if not self.samples else torch.full_like(cells, self.samples)
        samples = samples * self.pool
        reach = (cells * (samples - 1) / samples.clamp(min=1)).ceil() + 2
        codes = (torch.cat((samples, reach), 1).long() * torch.tensor(PLACE_VALUES)).sum(1)
        kinds, kind = codes.unique(return_inverse=True)
        places, weights, counts, turn = [], [], [], []
        for i, code in enumerate(kinds.tolist()):
            (own,) = torch.where(kind == i)
            across, down, *wide = (code // value % MOST for value in PLACE_VALUES)
            x, x_weights = _along(corners[own, 0], cells[own, 0], self.size, across, min(wide[0], width), width)
            y, y_weights = _along(corners[own, 1], cells[own, 1], self.size, down, min(wide[1], height), height)
            rows = (rois[own, 0].int() * height)[:, None, None] + y
            places.append(((rows * width)[:, :, None, :, None] + x[:, None, :, None]).flatten())
            weights.append((y_weights[:, :, None, :, None] * x_weights[:, None, :, None]).flatten())
            counts.append(torch.full((len(own) * self.size**2,), x.shape[2] * y.shape[2], dtype=torch.int32))
            turn.append(own)
        count = torch.cat(counts)
        first = count.cumsum(0, dtype=torch.int32) - count
        return torch.cat(places), torch.cat(weights), first, torch.cat(turn)


def _along(start: Tensor, cell: Tensor, cells: int, samples: int, reach: int, limit: int) -> tuple[Tensor, Tensor]:
    """Along one side, of regions that start at (G,), with cells so long (G,): of each cell the `reach` places (G, cells, reach)
    that its samples lie among, int32, and their weights.

    A sample is interpolated: a place weighs 1 less its distance.
    """
    if not samples:  # of a region without area
        return torch.zeros((len(start), cells, 1), dtype=torch.int32), torch.zeros(len(start), cells, 1)
    at = torch.arange(cells)[:, None] + (torch.arange(samples) + 0.5) / samples
    at = start[:, None, None] + at * cell[:, None, None]
    inside = (at >= -1) & (at <= limit)  # a sample further out is 0
    at = at.clamp(0, limit - 1)
    places = at[..., :1].floor().clamp(max=limit - reach) + torch.arange(reach)
    weights = (1 - (at[..., None] - places[:, :, None]).abs()).clamp(min=0) * inside[..., None]
    return places.int(), weights.sum(2) / samples
