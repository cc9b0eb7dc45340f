"""Multi-scale deformable attention (Zhu et al., Deformable DETR, 2010.04159, section 4.1), in plain PyTorch.

Each query sees a few points of every level: where they lie, relative to its own place, and how much each counts, are linear
functions of it.

What is read at the points has two forms of the same numbers.  On the processor `embedding_bag` reads a pixel of each point of all
levels, and sums them up, so that nothing of that size is ever stored; four calls read the four pixels around each point.  In
inference that takes a quarter of the time or less: of levels of 8×8, 16×16 and 32×32 cells and eight heads 3 ms against 27, of
levels of twice these sides 17 against 68 (one thread).  Elsewhere, for gradients, and in graphs that others run, it is one
`grid_sample` a level, which engines have.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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


def read_bags(value: Tensor, sizes: Sizes, places: Sequence[Tensor], weight: Tensor) -> Tensor:
    """Values (B, S, heads, D) of all levels, at places x and y, each (B, N, heads, L, P), in pixels of each level, weighted by
    (B, N, heads, L, P) and summed up -> (B, N, heads, D)."""
    batch, _, heads, _ = value.shape
    device = value.device
    # all levels on one canvas, each with zeros around it, where points outside are sent
    wide = max(width for _, width in sizes) + 2
    canvas = value.new_zeros(batch, sum(height + 1 for height, _ in sizes) + 3, wide, *value.shape[2:])
    start, firsts = 0, [1]
    for height, width in sizes:
        level = value[:, start : start + height * width].unflatten(1, (height, width))
        canvas[:, firsts[-1] : firsts[-1] + height, 1 : 1 + width] = level
        start, firsts = start + height * width, [*firsts, firsts[-1] + height + 1]
    # what depends on the level alone, for all points of a query: a row that fits, and is added to all at once
    each = weight.shape[2:]
    bottom, right = torch.tensor(sizes, device=device, dtype=weight.dtype).T[:, None, :, None].expand(-1, *each)
    x, y = (along.clamp(min=-1).minimum(most.contiguous()) for along, most in zip(places, (right, bottom), strict=True))
    column, row = x.floor(), y.floor()
    # the upper left of a point's four pixels; the heads of a cell lie side by side, the pictures one after the other
    whole = {"device": device, "dtype": torch.int32}
    first = torch.tensor(firsts[:-1], **whole)[:, None]
    origin = (first * wide + 1) * heads + torch.arange(heads, **whole)[:, None, None]
    number = torch.add(origin.expand(each).contiguous(), torch.add(column.int(), row.int(), alpha=wide), alpha=heads)
    number += (torch.arange(batch, **whole) * canvas[0].numel() // value.shape[3])[:, None, None, None, None]
    number = number.flatten(0, 2).flatten(1)
    below = (y - row) * weight
    total, table = 0, canvas.flatten(0, 3)
    for down, share in ((0, weight - below), (wide, below)):
        beside = share * (x - column)
        for aside, part in ((0, share - beside), (1, beside)):
            part = part.flatten(0, 2).flatten(1)
            neighbours = table[(down + aside) * heads :]  # the same numbers, counted from the pixel beside or below
            total = total + F.embedding_bag(number, neighbours, per_sample_weights=part, mode="sum")
    assert isinstance(total, Tensor)
    return total.unflatten(0, weight.shape[:3])


def read_grids(value: Tensor, sizes: Sizes, places: Sequence[Tensor], weight: Tensor) -> Tensor:
    """What `read_bags` reads, by `grid_sample`."""
    heads = value.shape[2]
    total, start = None, 0
    for level, (height, width) in enumerate(sizes):
        maps = value[:, start : start + height * width].permute(0, 2, 3, 1).flatten(0, 1).unflatten(2, (height, width))
        x, y = (along[:, :, :, level].transpose(1, 2).flatten(0, 1) for along in places)  # (B·heads, N, P)
        grid = torch.stack(((2 * x + 1) / width - 1, (2 * y + 1) / height - 1), -1)
        read = F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        read = (read * weight[:, :, :, level].transpose(1, 2).flatten(0, 1)[:, None]).sum(3)  # (B·heads, D, N)
        total = read if total is None else total + read
        start = start + height * width
    assert total is not None
    return total.unflatten(0, (-1, heads)).permute(0, 3, 1, 2)


class DeformableAttention(nn.Module):
    """levels, points   how many points of how many levels each head of a query sees"""

    apart = False  # whether `offsets` gives the x of all points first, and then all y

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
        starts: list[float] = []
        for head in range(heads):
            angle = 2 * math.pi * head / heads
            x, y = math.cos(angle), math.sin(angle)
            longest = max(abs(x), abs(y))
            starts += [
                step * along / longest for _ in range(levels) for step in range(1, points + 1) for along in (x, y)
            ]
        self.offsets.bias = nn.Parameter(torch.tensor(starts))

    def forward(self, query: Tensor, places: Tensor, value: Tensor, sizes: Sizes) -> Tensor:
        """Queries (B, N, C) at places (B or 1, N, L, 2) (`at_levels`), values (B, S, C) of levels of `sizes`, one after the
        other -> (B, N, C)"""
        shape = (self.heads, self.levels, self.points)
        offsets = self.offsets(query).float()  # places need more bits than half precision has
        each = offsets.unflatten(-1, (2, *shape) if self.apart else (*shape, 2)).unbind(2 if self.apart else -1)
        points = [start[:, :, None, :, None] + offset for start, offset in zip(places.unbind(-1), each, strict=True)]
        plain = value.device.type == "cpu" and not torch.is_grad_enabled() and not torch.compiler.is_compiling()
        weight = self.weights(query).float().unflatten(-1, (self.heads, -1))
        if plain:  # softmax, whose own operator is slow for so few numbers
            weight = (weight - weight.amax(-1, keepdim=True)).exp()
            weight = weight / weight.sum(-1, keepdim=True)
        else:
            weight = weight.softmax(-1)
        values = self.value(value).float().unflatten(-1, (self.heads, -1))
        read = (read_bags if plain else read_grids)(values, sizes, points, weight.unflatten(-1, shape[1:]))
        return self.proj(read.flatten(2).to(query.dtype))

    @torch.no_grad()
    def reparameterize(self) -> None:
        """Lets `offsets` give all x first, which are read without gaps then."""
        if self.apart:
            return
        order = torch.arange(self.offsets.out_features).view(-1, 2).t().flatten()
        self.offsets.weight.copy_(self.offsets.weight[order])
        self.offsets.bias.copy_(self.offsets.bias[order])
        self.apart = True
