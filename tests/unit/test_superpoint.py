"""SuperPoint's mechanisms: cells and points, stages of training, where descriptors are read, whatever picture comes."""

from __future__ import annotations

import pytest
import torch

from segmentarium.contracts.point_kinds import between_pixels, greatest, local_maxima
from segmentarium.keypoints.cells import DUSTBIN, cell_labels, scores_of_cells
from segmentarium.keypoints.superpoint import TINY, SuperPoint
from segmentarium.losses import DescriptorHinge


def tiny(**arguments: object) -> SuperPoint:
    torch.manual_seed(0)
    return SuperPoint(**{**TINY, **arguments}).eval()  # type: ignore[arg-type]


def test_a_pixel_s_class_says_its_place_in_the_cell() -> None:
    points = torch.zeros(1, 24, 32)
    points[0, 11, 26] = 1  # in the cell of row 1 and column 3: dy 3, dx 2
    labels = cell_labels(points)
    assert labels[0, 1, 3] == 3 * 8 + 2
    assert (labels == DUSTBIN).sum() == 11
    logits = torch.nn.functional.one_hot(labels, 65).permute(0, 3, 1, 2).float() * 50
    assert torch.allclose(scores_of_cells(logits), points, atol=1e-6)
    with pytest.raises(ValueError, match=r"\(20, 32\); give sides that are multiples of 8"):
        cell_labels(points[:, :20])


def test_one_of_several_points_in_a_cell_is_drawn_and_cells_in_part_count_nowhere() -> None:
    points = torch.zeros(200, 8, 8)
    points[:, 1, 1] = points[:, 6, 5] = 1
    drawn = cell_labels(points, generator=torch.Generator().manual_seed(0)).flatten()
    assert set(drawn.tolist()) == {9, 53}
    assert 60 < (drawn == 9).sum() < 140
    valid = torch.ones(1, 8, 16)
    valid[0, 7, 15] = 0
    assert cell_labels(torch.zeros(1, 8, 16), valid).tolist() == [[[DUSTBIN, 255]]]


def test_magicpoint_is_taught_points_alone_and_the_pair_all() -> None:
    model = tiny().train()
    assert [term.name for term in model.objective] == ["points", "warped points", "descriptors"]
    assert model.train_inputs == ("warped",)
    both = torch.rand(2, 1, 1, 32, 40)
    assert list(model.forward_train(*both)) == ["logits", "warped_logits", "descriptors", "warped_descriptors"]
    model.learn("points")
    assert [term.name for term in model.objective] == ["points"]
    assert (model.train_inputs, list(model.forward_train(both[0]))) == ((), ["logits"])
    rpautrat = tiny(form="open", objective="rpautrat")
    assert rpautrat.objective[2].weight == 1e4
    assert (rpautrat.objective[2].loss.positive_weight, rpautrat.objective[2].loss.normalised) == (0.05, True)


def test_corresponding_descriptors_are_drawn_together_up_to_the_margins() -> None:
    """With the identity a cell corresponds to itself and its four neighbours, whose centres are 8 pixels away."""
    loss = DescriptorHinge()
    near = loss.correspond(torch.eye(3)[None], (3, 4))[0]
    assert near.sum(1).reshape(3, 4).tolist() == [[3, 4, 4, 3], [4, 5, 5, 4], [3, 4, 4, 3]]
    shifted = torch.tensor([[[1.0, 0, 8], [0, 1, 0], [0, 0, 1]]])  # by one cell to the right
    assert loss.correspond(shifted, (3, 4))[0, 0, 1]
    apart = torch.eye(12).reshape(1, 12, 3, 4)
    alone = DescriptorHinge(radius=7.5)
    assert alone(apart, apart, torch.eye(3)[None]) == 0
    same = torch.ones(1, 2, 3, 4)
    assert alone(same, same, torch.eye(3)[None]).item() == pytest.approx(0.8 * 11 / 12, rel=1e-5)
    assert alone(same, same, torch.eye(3)[None], torch.zeros(1, 3, 4)) == 0


@torch.inference_mode()
def test_between_pixels_finds_the_top_of_a_gaussian() -> None:
    y, x = torch.meshgrid(torch.arange(9.0), torch.arange(12.0), indexing="ij")
    scores = torch.exp(-((x - 6.3) ** 2 + (y - 3.8) ** 2) / 4)
    assert torch.allclose(between_pixels(scores, torch.tensor([[6, 4]])), torch.tensor([[6.3, 3.8]]), atol=1e-4)
    assert between_pixels(scores, torch.tensor([[0, 4]])).tolist() == [[0, 4]]
    assert between_pixels(torch.ones(9, 12), torch.tensor([[6, 4]])).tolist() == [[6, 4]]


@torch.inference_mode()
@pytest.mark.parametrize("graph", [False, True])
def test_suppression_is_that_of_squares_by_opencv_and_in_a_graph(graph: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: graph)
    scores = torch.rand(2, 40, 57, generator=torch.Generator().manual_seed(0)).round(decimals=2)  # with ties
    squares = torch.nn.functional.max_pool2d(scores, 9, 1, 4)
    assert torch.equal(greatest(scores, 4), squares)
    assert torch.equal(greatest(-scores, 30), torch.nn.functional.max_pool2d(-scores, 61, 1, 30))
    assert torch.equal(
        greatest(scores[:, 3:5, 9:11], 4), scores[:, 3:5, 9:11].amax((1, 2), keepdim=True).expand(-1, 2, 2)
    )
    assert torch.equal(local_maxima(scores, 4, rounds=0), scores == squares)
    assert local_maxima(scores, 0).all()
    with pytest.raises(ValueError, match="radius is -1"):
        local_maxima(scores, -1)


@torch.inference_mode()
def test_options_of_detect() -> None:
    model = tiny()
    image = torch.rand(1, 64, 80)
    every = model.detect(image, threshold=0.0, radius=0, border=0)
    assert len(every) == 64 * 80
    assert len(model.detect(image, threshold=0.0, radius=0)) == 56 * 72
    few = model.detect(image, threshold=0.0, count=7)
    assert len(few) == 7
    assert torch.equal(few.keypoints, model.detect(image, threshold=0.0).keypoints[:7])
    between = model.detect(image, threshold=0.0, count=7, subpixel=True)
    assert 0 < (between.keypoints - few.keypoints).abs().max() <= 0.5
    assert torch.allclose(between.descriptors.norm(dim=1), torch.ones(7))


@torch.inference_mode()
@pytest.mark.parametrize("size", [(16, 16), (9, 300), (7, 40), (8, 8)])
def test_small_pictures_have_few_points_or_none(size: tuple[int, int]) -> None:
    found = tiny().detect(torch.rand(1, *size), threshold=0.0)
    assert found.image_size.tolist() == [size[1], size[0]]
    assert len(found) == len(found.keypoint_scores) == len(found.descriptors)
    assert ((found.keypoints >= 4) & (found.keypoints < found.image_size - 4)).all()
    assert size == (16, 16) or not len(found)


@torch.inference_mode()
def test_what_lies_behind_the_last_whole_cell_has_no_points() -> None:
    scores, descriptors = tiny()(torch.rand(2, 1, 45, 70))
    assert scores.shape == (2, 45, 70)
    assert descriptors.shape == (2, 16, 5, 8)
    assert (scores[:, 40:] == 0).all()
    assert (scores[..., 64:] == 0).all()
    assert (scores[:, :40, :64] > 0).all()


@torch.inference_mode()
def test_where_a_descriptor_is_read() -> None:
    """A dense map whose first channel is its column: exactly, pixel x lies at column (x + 0.5) / 8 - 0.5."""
    columns = torch.arange(10.0).expand(1, 1, 4, 10)
    dense = torch.cat((columns, torch.ones_like(columns)), 1)
    points = torch.tensor([[11.5, 11.5], [35.5, 20.0]])
    read = {
        sampling: (lambda found: found[:, 0] / found[:, 1])(tiny(sampling=sampling).sample(dense, points[None])[0])
        for sampling in ("exact", "superglue", "corners")
    }
    assert torch.allclose(read["exact"], torch.tensor([1.0, 4.0]), atol=1e-5)
    assert torch.allclose(read["superglue"], torch.tensor([8.0, 32.0]) * 9 / 75.5, atol=1e-5)
    assert torch.allclose(read["corners"], points[:, 0] * 9 / 80, atol=1e-5)


def test_words_that_are_unknown_are_refused() -> None:
    with pytest.raises(ValueError, match="form is 'vgg'; give one of 'magicleap', 'open', 'yyjau'"):
        SuperPoint(form="vgg")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="four stages"):
        SuperPoint(widths=(8, 8))


def test_a_batch_without_what_lies_beside_the_target_is_told() -> None:
    model = tiny().train()
    both = torch.rand(2, 1, 1, 16, 16)
    batch = {
        "cells": torch.zeros(1, 2, 2).long(),
        "warped_cells": torch.zeros(1, 2, 2).long(),
        "homography": torch.eye(3)[None],
    }
    with pytest.raises(KeyError, match="the term 'descriptors' is held against warped_valid"):
        model.criterion(model.forward_train(*both), batch)
    losses = model.criterion(model.forward_train(*both), batch | {"warped_valid": torch.ones(1, 2, 2)})
    assert list(losses) == ["points", "warped points", "descriptors"]
