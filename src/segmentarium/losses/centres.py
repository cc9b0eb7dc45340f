"""The objective of CenterPoint (Yin et al., 2006.11275, section 4.1): a Gaussian at each centre, held by CornerNet's focal loss,
and the L1 distance of the box's numbers at the centre's cell.

A target is (B, M, 8 or 10): x, y, z, length, width, height, angle, label, and the speed along x and y (not a number: unknown); a
label of -1 fills up.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segmentarium.layers.turned_boxes import as_in_earlier_code

LEAST, MOST = 1e-4, 1 - 1e-4  # of scores, so that logarithms stay finite


def centre_radius(length: Tensor, width: Tensor, overlap: float = 0.1) -> Tensor:
    """The radius, in cells, for boxes of these sides: the least of CornerNet's three, which ask how far a box's corners may move
    until it overlaps by `overlap`.  Solved as its code has it: the greater root of each equation, halved whatever its first
    factor."""

    def root(a: float, b: Tensor, c: Tensor) -> Tensor:
        return (b + (b.square() - 4 * a * c).clamp(min=0).sqrt()) / 2

    both, area = length + width, length * width
    return torch.stack(
        (
            root(1, both, area * (1 - overlap) / (1 + overlap)),
            root(4, 2 * both, (1 - overlap) * area),
            root(4 * overlap, -2 * overlap * both, (overlap - 1) * area),
        )
    ).amin(0)


def centre_heatmap(x: Tensor, y: Tensor, radius: Tensor, label: Tensor, shape: Sequence[int]) -> Tensor:
    """Whole cells x, y (M,), radii (M,) and classes (M,) of centres -> (K, h, w) for `shape` (K, h, w): the greatest of the
    Gaussians of a class, which end at their radius and have a standard deviation of a sixth of their diameter."""
    classes, height, width = shape
    radius = radius[:, None]
    sigma = (2 * radius + 1) / 6

    def bell(centre: Tensor, size: int) -> Tensor:
        away = torch.arange(size, device=x.device) - centre[:, None]
        return torch.exp(-away.square() / (2 * sigma.square())) * (away.abs() <= radius)

    columns, rows = bell(x, width), bell(y, height)
    heat = torch.zeros(classes, height * width, device=x.device)
    for part in torch.arange(len(x), device=x.device).split(64):  # a map each: a few at a time
        bells = (rows[part, :, None] * columns[part, None]).flatten(1)
        heat.scatter_reduce_(0, label[part, None].expand_as(bells), bells, "amax")
    return heat.view(classes, height, width)


def centre_focal(logits: Tensor, heat: Tensor, place: Tensor, real: Tensor, label: Tensor) -> Tensor:
    """Logits and target (B, K, h, w); of the centres (B, M) their cell y * w + x, whether they count, and their class."""
    score = logits.float().sigmoid().clamp(LEAST, MOST)
    away = ((1 - score).log() * score.square() * (1 - heat).pow(4)).sum()
    real = real.float()
    at = score.flatten(1).gather(1, label * (score.shape[2] * score.shape[3]) + place)
    near = (at.log() * (1 - at).square() * real).sum()
    number = real.sum()
    return -(near + away) / number.clamp(min=1)


def centre_l1(maps: Tensor, wanted: Tensor, place: Tensor, real: Tensor) -> Tensor:
    """(B, C, h, w) against (B, M, C) at the cells -> (C,): the mean over centres of each number's distance."""
    found = maps.float().flatten(2).mT.gather(1, place[..., None].expand(-1, -1, maps.shape[1]))
    known = real.float()[..., None] * wanted.isfinite()
    away = (found - wanted.nan_to_num(0.0, 0.0, 0.0)).abs() * known
    return away.sum((0, 1)) / (real.float().sum() + 1e-4)


class Centres(nn.Module):
    """A map (B, 8 or 10 + k, h, w) for each task, and targets (B, M, 8 or 10) -> {"heatmap", "box"}, summed over the tasks.

    A task's channels: offset in the cell 2, z, logarithms of length, width, height, sine and cosine of the angle, speed 2 if
    `velocity`, heat maps of its k classes.

    tasks      number of classes of each
    low, cell  least x, y of the maps and sides of their cells, in metres
    velocity   weighs 0.2 in the boxes' distance, everything else 1
    earlier    boxes are compared with the conventions of det3d: width before length, and the angle clockwise from the negative y
    """

    def __init__(
        self,
        tasks: Sequence[int],
        low: Sequence[float],
        cell: Sequence[float],
        *,
        velocity: bool = True,
        earlier: bool = False,
        overlap: float = 0.1,
        least_radius: int = 2,
    ) -> None:
        super().__init__()
        self.tasks, self.low, self.cell = tuple(tasks), tuple(low), tuple(cell)
        self.velocity, self.earlier = velocity, earlier
        self.overlap, self.least_radius = overlap, least_radius
        weights = [1.0] * 8 + [0.2] * (2 * velocity)
        self.register_buffer("weights", torch.tensor(weights), persistent=False)

    weights: Tensor

    def forward(self, *given: Tensor) -> dict[str, Tensor]:
        *maps, target = given
        with torch.autocast(target.device.type, enabled=False):
            codes, place, real, label, heat = self.targets(target.float(), maps[0].shape[-2:])
            heatmap, box, first = target.new_zeros(()), target.new_zeros(()), 0
            for found, count in zip(maps, self.tasks, strict=True):
                mine = real & (label >= first) & (label < first + count)
                own = (label - first).clamp(0, count - 1)
                numbers = codes.shape[-1]
                heatmap = heatmap + centre_focal(found[:, numbers:], heat[:, first : first + count], place, mine, own)
                box = box + (centre_l1(found[:, :numbers], codes, place, mine) * self.weights).sum()
                first += count
            return {"heatmap": heatmap, "box": box}

    @torch.no_grad()
    def targets(self, target: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Targets (B, M, 8 or 10) and (h, w) -> codes (B, M, 8 or 10), cell, whether it counts, label (B, M), heat (B, K, h, w).

        A centre outside the map does not count, nor does a box without extent.
        """
        height, width = size
        target = as_in_earlier_code(target) if self.earlier else target
        low, cell = target.new_tensor(self.low), target.new_tensor(self.cell)
        centre = (target[..., :2] - low) / cell
        whole = centre.nan_to_num(-1).floor().long()
        label = target[..., 7].long()
        real = (label >= 0) & (target[..., 3:6] > 0).all(-1) & (whole >= 0).all(-1)
        real &= (whole[..., 0] < width) & (whole[..., 1] < height)
        x, y = whole[..., 0].clamp(0, width - 1), whole[..., 1].clamp(0, height - 1)
        sides = target[..., 3:5] / cell
        radius = (
            centre_radius(sides[..., 0], sides[..., 1], self.overlap).nan_to_num(0).floor().clamp(min=self.least_radius)
        )
        shape = (sum(self.tasks), height, width)
        heat = torch.stack(
            [
                centre_heatmap(x[i][kept], y[i][kept], radius[i][kept], label[i][kept], shape)
                for i, kept in enumerate(real)
            ]
        )
        angle = target[..., 6:7]
        sizes = target[..., 3:6].clamp(min=1e-6).log()
        parts = [centre - whole, target[..., 2:3], sizes, angle.sin(), angle.cos()]
        if self.velocity:
            unknown = torch.full_like(target[..., :2], torch.nan)
            parts.append(target[..., 8:10] if target.shape[-1] >= 10 else unknown)
        return torch.cat(parts, -1), y * width + x, real, label.clamp(min=0), heat
