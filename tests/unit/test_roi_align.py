"""Regions cut out on processors are those of torchvision's operator."""

import pytest
import torch

from segmentarium.layers.roi_align import RoIAlign

STRIDES = (4, 8, 16)
FORMS = {"mmdet": {}, "torchvision": {"aligned": False, "samples": 2}, "pooled": {"pool": 2}}


def pyramid() -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(2, 3, 96 // stride, 128 // stride) for stride in STRIDES]


def regions(count: int = 40) -> torch.Tensor:
    """Of all sizes and shapes, some of no area, and beyond the picture on all sides."""
    corners = torch.rand(count, 2, 2) * torch.tensor([170.0, 130.0]) - 20
    boxes = torch.cat((corners.amin(1), corners.amax(1)), 1)
    boxes[0, 2:] = boxes[0, :2]
    boxes[1] = torch.tensor([0.0, 0.0, 128.0, 120.0])
    boxes[2] = torch.tensor([300.0, 300.0, 320.0, 310.0])
    boxes[3] = torch.tensor([-400.0, -9.0, 900.0, -3.0])
    boxes[4] = torch.tensor([-200.0, -100.0, 300.0, 200.0])
    return torch.cat((torch.arange(count)[:, None] % 2, boxes), 1)


def by_operator(align: RoIAlign, maps: list[torch.Tensor], rois: torch.Tensor) -> torch.Tensor:
    found = torch.zeros(len(rois), maps[0].shape[1], align.size, align.size)
    levels = align.levels(rois)
    for level, x in enumerate(maps):
        found[levels == level] = align._cut(x, rois[levels == level], align.strides[level])
    return found


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_sums_of_rows_are_the_operators_regions(form: str, layout: torch.memory_format) -> None:
    maps, rois, align = pyramid(), regions(), RoIAlign(STRIDES, 7, **FORMS[form])
    mine = [x.clone(memory_format=layout).requires_grad_() for x in maps]
    theirs = [x.clone().requires_grad_() for x in maps]
    found, expected = align(mine, rois), by_operator(align, theirs, rois)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    weights = torch.randn_like(expected)
    for outputs in (found, expected):
        (outputs * weights).sum().backward()
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-3, rtol=1e-4)


def test_one_map_and_given_levels() -> None:
    maps, rois = pyramid(), regions()
    one = RoIAlign(STRIDES[1:2], 14)
    torch.testing.assert_close(one(maps[1:2], rois), one._cut(maps[1], rois, 8), atol=1e-4, rtol=1e-4)
    align, levels = RoIAlign(STRIDES, 7), torch.arange(len(rois)) % 3
    found = align(maps, rois, levels)
    for level, x in enumerate(maps):
        expected = align._cut(x, rois[levels == level], STRIDES[level])
        torch.testing.assert_close(found[levels == level], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("levels", [1, 3])
def test_no_region_and_a_map_of_one_place(levels: int) -> None:
    maps = [torch.ones(1, 3, 1, 1)] * levels
    align = RoIAlign(STRIDES[:levels], 7)
    assert align(maps, torch.zeros(0, 5)).shape == (0, 3, 7, 7)
    found = align(maps, torch.tensor([[0.0, 0.0, 0.0, 4.0, 4.0]]))
    torch.testing.assert_close(found, align._cut(maps[0], torch.tensor([[0.0, 0.0, 0.0, 4.0, 4.0]]), 4))
    assert align(maps, torch.tensor([[0.0, float("nan"), 0.0, 4.0, float("inf")]])).isfinite().all()
