"""Overlaps of turned boxes against a polygon library; suppression against the loop that it stands for."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from shapely.geometry import Polygon
from torch import Tensor

from segmentarium.layers.turned_boxes import (
    as_in_earlier_code,
    corners,
    corners_3d,
    inside_boxes,
    iou_3d,
    iou_from_above,
    iou_upright,
    shared_area,
    suppress,
    suppress_near,
)


def drawn(count: int, seed: int = 0, spread: float = 4.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    centre = (torch.rand(count, 3, generator=generator) - 0.5) * torch.tensor((spread, spread, 1.0))
    size = 0.2 + 4 * torch.rand(count, 3, generator=generator)
    return torch.cat((centre, size, (torch.rand(count, 1, generator=generator) - 0.5) * 12), 1)


def areas(a: Tensor, b: Tensor) -> np.ndarray:
    """By the library."""
    polygons = [[Polygon(shape) for shape in corners(boxes.double()).tolist()] for boxes in (a, b)]
    return np.array([one.intersection(two).area for one, two in zip(*polygons, strict=True)])


def test_shared_areas_are_those_of_a_polygon_library() -> None:
    a, b = drawn(400, 0), drawn(400, 1)
    assert np.abs(shared_area(a, b).numpy() - areas(a, b)).max() < 1e-6
    far = torch.tensor([[5000.0, 2000.0, 0, 0, 0, 0, 0]])  # as in city coordinates
    # float32 knows such places to half a millimetre
    assert np.abs(shared_area((a + far).double(), (b + far).double()).numpy() - areas(a + far, b + far)).max() < 1e-6


@pytest.mark.parametrize("turn", [0.0, math.pi / 2, math.pi, 0.3, -2.0])
def test_sides_that_lie_on_each_other(turn: float) -> None:
    box = torch.tensor([[1.0, 2.0, 0.0, 4.0, 2.0, 1.5, turn]])
    assert iou_from_above(box, box).item() == pytest.approx(1, abs=1e-6)
    quarter = box.clone()
    quarter[:, 3:5] = quarter[:, [4, 3]]
    quarter[:, 6] += math.pi / 2  # the same box, said otherwise
    assert iou_3d(box, quarter).item() == pytest.approx(1, abs=1e-6)
    along = torch.tensor([[math.cos(turn), math.sin(turn)]])
    moved = box.clone()
    moved[:, :2] += 1.0 * along
    assert shared_area(box, moved).item() == pytest.approx(3 * 2, abs=1e-6)
    moved[:, :2] += 3.0 * along  # they touch
    assert shared_area(box, moved).item() == pytest.approx(0, abs=1e-6)
    inner = box.clone()
    inner[:, 3:5] /= 2
    assert iou_from_above(box, inner).item() == pytest.approx(0.25, abs=1e-6)


def test_boxes_without_extent_overlap_nothing() -> None:
    flat = torch.tensor([[0.0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 2, 0, 1, 0.5]])
    box = torch.tensor([[0.0, 0, 0, 4, 2, 1.5, 0]])
    for overlap in (iou_from_above(flat, box), iou_3d(flat, flat), iou_upright(flat, box)):
        assert overlap.isfinite().all()
        assert (overlap == 0).all()
    assert iou_3d(box[:0], box).shape == (0, 1)


def test_height_counts_in_space() -> None:
    a = torch.tensor([[0.0, 0, 0, 4, 2, 2, 0.7]])
    b = torch.tensor([[0.0, 0, 1, 4, 2, 2, 0.7]])
    assert iou_3d(a, b).item() == pytest.approx(1 / 3, abs=1e-6)
    assert iou_from_above(a, b).item() == pytest.approx(1, abs=1e-6)


def test_suppression_is_the_greedy_loop() -> None:
    boxes = drawn(120, 3, spread=12)
    scores = torch.rand(120, generator=torch.Generator().manual_seed(4))
    groups = torch.arange(120) % 3
    overlap = iou_from_above(boxes, boxes)
    away = torch.cdist(boxes[:, :2], boxes[:, :2])
    radius = torch.tensor((0.5, 1.0, 2.0))[groups]

    def loop(hides: Tensor) -> list[int]:
        kept: list[int] = []
        for i in scores.argsort(descending=True).tolist():
            if not any(groups[k] == groups[i] and hides[k, i] for k in kept):
                kept.append(i)
        return kept

    kept = suppress(boxes, scores, 0.1, groups).tolist()
    assert kept == loop(overlap > 0.1)
    assert 20 < len(kept) < 110
    assert suppress_near(boxes, scores, radius, groups).tolist() == loop(away <= radius[:, None])
    assert len(suppress(boxes[:0], scores[:0], 0.1)) == 0


def test_corners_and_points_inside() -> None:
    box = torch.tensor([[1.0, 2.0, 3.0, 4.0, 2.0, 1.0, math.pi / 2]])
    assert torch.allclose(corners(box)[0], torch.tensor([[0.0, 4], [0, 0], [2, 0], [2, 4]]), atol=1e-6)
    assert corners_3d(box)[0, :, 2].tolist() == [2.5] * 4 + [3.5] * 4
    points = torch.tensor([[1.0, 3.9, 3.4, 0.1], [1.0, 4.1, 3.0, 0.1], [1.0, 2.0, 3.6, 0.1]])
    assert inside_boxes(points, box)[:, 0].tolist() == [True, False, False]


def test_earlier_conventions_go_there_and_back() -> None:
    boxes = torch.cat((drawn(5), torch.rand(5, 2)), 1)
    assert torch.allclose(as_in_earlier_code(as_in_earlier_code(boxes)), boxes, atol=1e-6)
    # a car that looks along x is 4 m along x: theirs says width 2, length 4, and a quarter turn
    car = as_in_earlier_code(torch.tensor([0.0, 0, 0, 4, 2, 1.5, 0]))
    assert car.tolist() == pytest.approx([0, 0, 0, 2, 4, 1.5, -math.pi / 2])
