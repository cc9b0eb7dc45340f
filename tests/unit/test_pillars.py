"""Pillars by scattering against the loop that they stand for: cells, ranks, caps, features."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from segmentarium.lidar.pillars import Grid, PillarEncoder, capped, ranks, voxel_means

AREA, CELL = (-2.0, -1.0, -1.0, 2.0, 1.0, 1.0), (0.5, 0.5, 2.0)
GRID = Grid(AREA, CELL)


def cloud(batch: int = 2, count: int = 150, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(batch, count, 4, generator=generator)
    points[..., :3] = points[..., :3] * torch.tensor((4.8, 2.4, 2.4)) - torch.tensor((2.4, 1.2, 1.2))
    points[0, 3, 2] = torch.nan
    return points


def pillars_by_loop(
    points: Tensor, most: int | None = None, pillars: int | None = None
) -> dict[tuple[int, int, int], list[int]]:
    """(scan, row, column) -> numbers of its points, in their order."""
    found: dict[tuple[int, int, int], list[int]] = {}
    for scan, rows in enumerate(points.tolist()):
        for number, (x, y, z, _) in enumerate(rows):
            if not (AREA[0] <= x < AREA[3] and AREA[1] <= y < AREA[4] and AREA[2] <= z < AREA[5]):
                continue
            key = (scan, int((y - AREA[1]) // CELL[1]), int((x - AREA[0]) // CELL[0]))
            if key not in found and pillars is not None and sum(k[0] == scan for k in found) == pillars:
                continue
            if most is None or len(found.get(key, [])) < most:
                found.setdefault(key, []).append(number)
    return found


def features_by_loop(encoder: PillarEncoder, points: Tensor, most: int | None, pillars: int | None) -> Tensor:
    """As code with tables of fixed size does it, empty places and all."""
    result = torch.zeros(len(points), encoder.channels, *GRID.shape[1:])
    for (scan, row, column), numbers in pillars_by_loop(points, most, pillars).items():
        mine = points[scan, numbers]
        centre = torch.tensor((AREA[0] + (column + 0.5) * CELL[0], AREA[1] + (row + 0.5) * CELL[1], 0.0))
        table = torch.cat(
            (mine, mine[:, :3] - mine[:, :3].mean(0), (mine[:, :3] - centre)[:, : encoder.centre_axes]), 1
        )
        if encoder.replaced:
            table[:, : encoder.centre_axes] = table[:, -encoder.centre_axes :]
        if most is not None:
            table = torch.cat((table, torch.zeros(most - len(table), table.shape[1])))
        for i, layer in enumerate(encoder.layers):
            table = layer(table)
            top = table.amax(0)
            if i < len(encoder.layers) - 1:
                table = torch.cat((table, top.expand_as(table)), 1)
        result[scan, :, row, column] = top
    return result


@pytest.mark.parametrize("most", [None, 3])
@pytest.mark.parametrize("pillars", [None, 12])
@pytest.mark.parametrize("form", [{}, {"replaced": True, "centre_axes": 3}, {"widths": (8, 6), "halved": False}])
@torch.no_grad()
def test_features_are_those_of_the_loop(most: int | None, pillars: int | None, form: dict) -> None:
    torch.manual_seed(0)
    encoder = PillarEncoder(GRID, 4, **{"widths": (8, 6), **form}, max_points=most, max_pillars=pillars).eval()
    for layer in encoder.layers:
        layer.norm.bias.uniform_(-0.5, 0.5)
        layer.norm.running_mean.uniform_(-0.5, 0.5)
    points = cloud()
    wanted = features_by_loop(encoder, points, most, pillars)
    assert torch.allclose(encoder(points), wanted, atol=1e-5)
    assert (wanted != 0).any(1).sum() > 10
    for layer in encoder.layers:
        layer.reparameterize()
    assert torch.allclose(encoder(points), wanted, atol=1e-5)


def test_ranks_and_caps() -> None:
    cell = torch.tensor([5, 2, 5, 7, 2, 5, 9, 9])
    assert ranks(cell).tolist() == [0, 0, 1, 0, 1, 2, 0, 1]
    assert ranks(cell[:0]).tolist() == []
    # one scan of nine cells, and cell 9 nobody's
    assert capped(cell, (1, 8), 9, 2, None).tolist() == [5, 2, 5, 7, 2, 9, 9, 9]
    assert capped(cell, (1, 8), 9, None, 2).tolist() == [5, 2, 5, 9, 2, 5, 9, 9]
    # two scans of four points: each has its own first pillars
    assert capped(torch.tensor([1, 2, 1, 2, 6, 5, 6, 5]), (2, 4), 8, None, 1).tolist() == [1, 8, 1, 8, 6, 8, 6, 8]


def test_voxels_hold_means_and_are_stacked() -> None:
    points = torch.tensor(
        [[[-1.9, -0.9, -0.5, 1.0], [-1.8, -0.8, -0.7, 3.0], [-1.9, -0.9, 0.5, 5.0], [9.0, 0, 0, 9.0]]]
    )
    means = voxel_means(points, Grid(AREA, (0.5, 0.5, 1.0)))
    assert means.shape == (1, 8, 4, 8)
    assert means[0, [3 * 2, 3 * 2 + 1], 0, 0].tolist() == [2, 5]  # intensity, lower and upper layer
    assert means[0, 0, 0, 0].item() == pytest.approx(-1.85)
    assert (means[..., 1:] == 0).all()
    # capped: of a voxel the first point alone; of the scan the first voxel
    grid = Grid(AREA, (0.5, 0.5, 1.0))
    one = voxel_means(points, grid, max_points=1)
    assert one[0, [3 * 2, 3 * 2 + 1], 0, 0].tolist() == [1, 5]
    first = voxel_means(points, grid, max_voxels=1)
    assert first[0, [3 * 2, 3 * 2 + 1], 0, 0].tolist() == [2, 0]


def test_training_counts_points_and_nothing_else_in_its_statistics() -> None:
    points = cloud(1)
    encoders = [PillarEncoder(GRID, 4, (8,)).train() for _ in range(2)]
    encoders[1].load_state_dict(encoders[0].state_dict())
    a = encoders[0](points)
    b = encoders[1](torch.cat((points, torch.full((1, 900, 4), 1e6)), 1))
    assert torch.equal(a, b)
    assert torch.equal(encoders[0].layers[0].norm.running_mean, encoders[1].layers[0].norm.running_mean)
    a.sum().backward()
    assert encoders[0].layers[0].linear.weight.grad.abs().max() > 0


def test_grids_that_cannot_be_meant() -> None:
    with pytest.raises(ValueError, match="three sides"):
        Grid(AREA, (0.5, 0.0, 1.0))
    with pytest.raises(ValueError, match="2 cells high"):
        PillarEncoder(Grid(AREA, (0.5, 0.5, 1.0)))
    with pytest.raises(ValueError, match="max_points is 0"):
        PillarEncoder(GRID, max_points=0)
