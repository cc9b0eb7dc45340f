"""From points to a map of pillars seen from above (PointPillars, section 2.1), by sorting and scattering, without loops.

Every shape is known before the points are, so that counting, exporting and compiling see one graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Area = tuple[float, float, float, float, float, float]
NORM: dict[str, Any] = {"eps": 1e-3, "momentum": 0.01}  # of all norms of the pillars and of the trunk behind them


@dataclass(frozen=True)
class Grid:
    """Cells of `cell` metres (x, y, z) in `area`: least x, y, z and greatest x, y, z."""

    area: Area
    cell: tuple[float, float, float]

    def __post_init__(self) -> None:
        if len(self.area) != 6 or len(self.cell) != 3 or min(self.cell) <= 0:
            raise ValueError(
                f"area is {self.area} and cell {self.cell}; give least x, y, z and greatest x, y, z, and three sides, in metres"
            )

        cells = [(self.area[i + 3] - self.area[i]) / self.cell[i] for i in range(3)]
        if any(count < 0.999 or abs(count - round(count)) > 1e-3 for count in cells):
            raise ValueError(
                f"area {self.area} is {', '.join(f'{count:.3f}' for count in cells)} cells of {self.cell} along x, y, z; give an "
                "area of whole cells"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Cells along z, y, x."""
        nx, ny, nz = (round((self.area[i + 3] - self.area[i]) / self.cell[i]) for i in range(3))
        return nz, ny, nx

    def cells_of(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, F) -> the cell of each point, counted through the batch by z, y, x: (B * N,), and its centre (B * N, 3).

        Points outside, or with a value that is not finite, have the cell behind the last.
        """
        nz, ny, nx = self.shape
        low, size = points.new_tensor(self.area[:3]), points.new_tensor(self.cell)
        place = ((points[..., :3] - low) / size).floor()
        limit = points.new_tensor((nx, ny, nz))
        inside = ((place >= 0) & (place < limit)).all(-1) & points.isfinite().all(-1)
        place = torch.where(inside[..., None], place, torch.zeros_like(place))
        x, y, z = place.long().unbind(-1)
        batch = torch.arange(points.shape[0], device=points.device)[:, None]
        cell = ((batch * nz + z) * ny + y) * nx + x
        cell = torch.where(inside, cell, points.shape[0] * nz * ny * nx)
        return cell.flatten(), (place * size + (low + size / 2)).flatten(0, 1)


def sums(values: Tensor, cell: Tensor, cells: int) -> Tensor:
    """(N, C) and the cell of each (N,), the last of which is nobody's -> (cells + 1, C), the sum of each cell's values."""
    return values.new_zeros(cells + 1, values.shape[1]).scatter_add_(0, cell[:, None].expand_as(values), values)


def greatest(values: Tensor, cell: Tensor, cells: int) -> Tensor:
    """The same for the greatest of values that are 0 or more; 0 in a cell without any."""
    empty = values.new_zeros(cells + 1, values.shape[1])
    return empty.scatter_reduce_(0, cell[:, None].expand_as(values), values, "amax")


def ranks(cell: Tensor) -> Tensor:
    """(N,) cells -> (N,): how many points of its cell came before it."""
    position = torch.arange(cell.shape[0], device=cell.device)
    order = (cell * cell.shape[0] + position).argsort()  # stable, which exported sorting is not
    ordered = cell[order]
    begins = torch.cat((torch.ones_like(ordered[:1], dtype=torch.bool), ordered[1:] != ordered[:-1]))
    group, none = begins.cumsum(0) - 1, torch.zeros_like(position)
    first = none.scatter_add(0, group, torch.where(begins, position, none))[group]
    return torch.zeros_like(position).scatter(0, order, position - first)


def capped(cell: Tensor, shape: tuple[int, int], cells: int, max_points: int | None, max_pillars: int | None) -> Tensor:
    """The cells of points, (B * N,) for `shape` (B, N), with those points moved to nobody's that come too late: behind
    `max_points` of their cell, or in a cell behind the first `max_pillars` of their scan, by the order in which cells got their
    first point."""
    rank = ranks(cell)
    late = torch.zeros_like(cell, dtype=torch.bool) if max_points is None else rank >= max_points
    if max_pillars is not None:
        begins = ((rank == 0) & (cell < cells)).view(shape)
        number = (begins.cumsum(1) * begins).flatten()[:, None]  # from 1, at each cell's first point
        late |= sums(number, cell, cells)[cell, 0] > max_pillars
    return cell.masked_fill(late, cells)


def voxel_means(points: Tensor, grid: Grid, *, max_points: int | None = None, max_voxels: int | None = None) -> Tensor:
    """(B, N, F) -> (B, F * nz, ny, nx): the mean of the points of each voxel, its layers along z as channels; 0 where none is.

    max_points, max_voxels   of a voxel and of a scan, in the order in which they come (`capped`); None: all, the dynamic form
    """
    (nz, ny, nx), batch = grid.shape, points.shape[0]
    cell, _ = grid.cells_of(points)
    cells = batch * nz * ny * nx
    if max_points is not None or max_voxels is not None:
        cell = capped(cell, (batch, points.shape[1]), cells, max_points, max_voxels)
    rows = points.flatten(0, 1)
    total = sums(F.pad(torch.where((cell < cells)[:, None], rows, 0), (0, 1), value=1.0), cell, cells)[:-1]
    means = total[:, :-1] / total[:, -1:].clamp(min=1)
    return means.view(batch, nz, ny, nx, -1).permute(0, 4, 1, 2, 3).flatten(1, 2)


class PointLayer(nn.Module):
    """linear -> norm -> ReLU, of every point."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_channels, out_channels, bias=False)
        self.norm: nn.Module = nn.BatchNorm1d(out_channels, **NORM)

    def forward(self, x: Tensor) -> Tensor:
        norm = self.norm
        if not isinstance(norm, nn.BatchNorm1d):
            return self.linear(x).relu_()
        if self.training and len(x) > 1:  # one point has no variance
            return norm(self.linear(x)).relu()
        # folded at once: of 100,000 points the norm alone would take as long as all else
        weight, bias = self._folded(norm)
        return F.linear(x, weight, bias).relu_()

    def _folded(self, norm: nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
        """Weight and bias with the norm's statistics in them."""
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        return self.linear.weight * scale[:, None], norm.bias - norm.running_mean * scale

    def reparameterize(self) -> None:
        """Folds the norm into the linear layer, in place."""
        norm = self.norm
        if isinstance(norm, nn.BatchNorm1d):
            weight, bias = self._folded(norm)
            self.linear.weight, self.linear.bias = nn.Parameter(weight), nn.Parameter(bias)
            self.norm = nn.Identity()


class PillarEncoder(nn.Module):
    """(B, N, F) points -> (B, C, ny, nx): of each pillar the greatest of its points' features, 0 where it has none.

    A point is described by its values, its offset from the mean of its pillar's points, and from the pillar's centre.

    widths       of the layers; the greatest over the pillar is laid beside the features of all but the last
    centre_axes  2: the offset from the pillar's centre in x and y; 3: in z, too
    replaced     the offsets from the centre stand in place of x and y (and z), as well as at the end, as in code that
                 overwrites its input
    halved       all layers but the last are half as wide, so that they have their width with the greatest beside
    max_points   of a pillar, in the order in which they come; None: all, which is the dynamic form
    max_pillars  of a scan, in the order in which they get their first point; None: all

    Code with tables of fixed size lets empty places of the table take part in the greatest.  All of them have the same features,
    so with `max_points` one such row stands for a pillar that is not full.  In training it counts once in the norms' statistics,
    where theirs counts every empty place.
    """

    def __init__(
        self,
        grid: Grid,
        in_channels: int = 4,
        widths: Sequence[int] = (64,),
        *,
        centre_axes: int = 2,
        replaced: bool = False,
        halved: bool = True,
        max_points: int | None = None,
        max_pillars: int | None = None,
    ) -> None:
        super().__init__()
        if grid.shape[0] != 1:
            raise ValueError(
                f"the area is {grid.shape[0]} cells high; a pillar is one: give its height as the cell's third side"
            )
        if any(most is not None and most < 1 for most in (max_points, max_pillars)):
            raise ValueError(
                f"max_points is {max_points} and max_pillars {max_pillars}; give 1 or more, or None for all"
            )
        self.grid, self.centre_axes, self.replaced = grid, centre_axes, replaced
        self.max_points, self.max_pillars = max_points, max_pillars
        self.channels = widths[-1]
        self.layers = nn.ModuleList()
        channels = in_channels + 3 + centre_axes
        for i, width in enumerate(widths):
            last = i == len(widths) - 1
            self.layers.append(PointLayer(channels, width if last or not halved else width // 2))
            channels = width if halved else 2 * width

    def forward(self, points: Tensor) -> Tensor:
        (_, ny, nx), batch = self.grid.shape, points.shape[0]
        cells = batch * ny * nx
        cell, centre = self.grid.cells_of(points)
        if self.max_points is not None or self.max_pillars is not None:
            cell = capped(cell, (batch, points.shape[1]), cells, self.max_points, self.max_pillars)
        rows = points.flatten(0, 1)
        if self.training:  # points that are nobody's would count in the norms' statistics
            mine = cell < cells
            cell, centre, rows = cell[mine], centre[mine], rows[mine]
        total = sums(F.pad(rows[:, :3], (0, 1), value=1.0), cell, cells)[cell]
        mean = total[:, :3] / total[:, 3:].clamp(min=1)
        offset = (rows[:, :3] - centre)[:, : self.centre_axes]
        values = torch.cat((offset, rows[:, self.centre_axes :]), 1) if self.replaced else rows
        x = torch.cat((values, rows[:, :3] - mean, offset), 1)
        if self.max_points is not None:
            empty = (ranks(cell) == 0) & (total[:, 3] < self.max_points)
            x = torch.cat((x, torch.zeros_like(x)))
            cell = torch.cat((cell, cell.masked_fill(~empty, cells)))
            if self.training:
                x, cell = x[cell < cells], cell[cell < cells]
        for i, layer in enumerate(self.layers):
            x = layer(x)
            top = greatest(x, cell, cells)
            if i < len(self.layers) - 1:
                x = torch.cat((x, top[cell]), 1)
        return top[:-1].view(batch, ny, nx, -1).permute(0, 3, 1, 2)
