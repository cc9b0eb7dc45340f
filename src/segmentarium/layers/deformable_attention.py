"""Multi-scale deformable attention (Zhu et al., Deformable DETR, 2010.04159, section 4.1), in plain PyTorch.

Each query sees a few points of every level: where they lie, relative to its own place, and how much each counts, are linear
functions of it.

What is read at the points has two forms of the same numbers.  On the processor each point is its four pixels, and one
`embedding_bag` reads the pixels of all levels and sums them up, so that nothing of that size is ever stored.  Elsewhere, and in
graphs that others run, it is one `grid_sample` a level, which engines have.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.layers.points import neighbours

Sizes = Sequence[tuple[int, int]]


def at_levels(places: Tensor, sizes: Sizes) -> Tensor:
    """Places (…, 2), x and y in [0, 1] from one edge to the other -> (…, L, 2) in pixels of each level, of `sizes` = (h, w):
    (0, 0) is the centre of the first pixel."""
    x, y = places.unbind(-1)
    return torch.stack([torch.stack((x * width - 0.5, y * height - 0.5), -1) for height, width in sizes], -2)


def cell_places(sizes: Sizes, like: Tensor) -> Tensor:
    """(1, S, 2): x and y in [0, 1] of the centres of all cells, level by level, row by row."""
    found = []
    for height, width in sizes:
        y = (torch.arange(height, device=like.device, dtype=torch.float32) + 0.5) / height
        x = (torch.arange(width, device=like.device, dtype=torch.float32) + 0.5) / width
        found.append(torch.stack((x.expand(height, -1), y[:, None].expand(-1, width)), 2).flatten(0, 1))
    return torch.cat(found)[None]


def read_bags(value: Tensor, sizes: Sizes, places: Tensor, weight: Tensor) -> Tensor:
    """Values (B, S, heads, D) of all levels, at places (B, N, heads, L, P, 2) in pixels of each level, weighted by
    (B, N, heads, L, P) and summed up -> (B, N, heads, D)."""
    batch, cells, heads, _ = value.shape
    device = value.device
    height, width = torch.tensor(sizes, device=device).T[..., None]
    number, share = neighbours(places[..., 0], places[..., 1], height, width)
    before = torch.cumsum(height * width, 0, dtype=torch.int32) - (height * width).to(torch.int32)
    # rows of a table that has the heads of a cell side by side, and the pictures one after the other
    row = (number + before[..., None, None]) * heads
    row += torch.arange(heads, device=device, dtype=torch.int32)[:, None, None, None, None]
    row += (torch.arange(batch, device=device, dtype=torch.int32) * cells * heads)[:, None, None, None, None, None, None]
    table = value.flatten(0, 2)
    share = share * weight[..., None, None]
    summed = F.embedding_bag(row.flatten(0, 2).flatten(1), table, per_sample_weights=share.flatten(0, 2).flatten(1), mode="sum")
    return summed.unflatten(0, places.shape[:3])


def read_grids(value: Tensor, sizes: Sizes, places: Tensor, weight: Tensor) -> Tensor:
    """What `read_bags` reads, by `grid_sample`."""
    heads = value.shape[2]
    total, start = None, 0
    for level, (height, width) in enumerate(sizes):
        maps = value[:, start : start + height * width].permute(0, 2, 3, 1).flatten(0, 1).unflatten(2, (height, width))
        x, y = places[:, :, :, level].transpose(1, 2).flatten(0, 1).unbind(-1)  # (B·heads, N, P)
        grid = torch.stack(((2 * x + 1) / width - 1, (2 * y + 1) / height - 1), -1)
        read = F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        read = (read * weight[:, :, :, level].transpose(1, 2).flatten(0, 1)[:, None]).sum(3)  # (B·heads, D, N)
        total = read if total is None else total + read
        start = start + height * width
    assert total is not None
    return total.unflatten(0, (-1, heads)).permute(0, 3, 1, 2)


class DeformableAttention(nn.Module):
    """levels, points   how many points of how many levels each head of a query sees"""

    def __init__(self, channels: int, heads: int = 8, *, levels: int = 3, points: int = 4) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"{channels} channels cannot be shared by {heads} heads; give a number that divides them")
        self.heads, self.levels, self.points = heads, levels, points
        self.offsets = nn.Linear(channels, heads * levels * points * 2)
        self.weights = nn.Linear(channels, heads * levels * points)
        self.value = nn.Linear(channels, channels)
        self.proj = nn.Linear(channels, channels)
        for layer in (self.value, self.proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.weights.weight)  # all points count alike at first,
        nn.init.zeros_(self.weights.bias)
        nn.init.zeros_(self.offsets.weight)  # and lie on rays around the query's place, a ray a head
        angle = torch.arange(heads, dtype=torch.float32) * (2 * math.pi / heads)
        ray = torch.stack((angle.cos(), angle.sin()), 1)
        ray = (ray / ray.abs().amax(1, keepdim=True))[:, None, None] * torch.arange(1, points + 1)[:, None]
        with torch.no_grad():
            self.offsets.bias.copy_(ray.expand(-1, levels, -1, -1).flatten())

    def forward(self, query: Tensor, places: Tensor, value: Tensor, sizes: Sizes) -> Tensor:
        """Queries (B, N, C) at places (B or 1, N, L, 2) (`at_levels`), values (B, S, C) of levels of `sizes`, one after the
        other -> (B, N, C)"""
        shape = (self.heads, self.levels, self.points)
        offsets = self.offsets(query).unflatten(-1, (*shape, 2)).float()  # places need more bits than half precision has
        weight = self.weights(query).float().unflatten(-1, (self.heads, -1)).softmax(-1).unflatten(-1, shape[1:])
        points = places[:, :, None, :, None] + offsets
        values = self.value(value).float().unflatten(-1, (self.heads, -1))
        plain = value.device.type == "cpu" and not torch.compiler.is_compiling()
        read = (read_bags if plain else read_grids)(values, sizes, points, weight)
        return self.proj(read.flatten(2).to(query.dtype))
