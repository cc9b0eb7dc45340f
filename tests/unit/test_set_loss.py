"""Losses of sets: the best matching, what counts nowhere, where points are drawn, what a batch may say."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from segmentarium.layers.points import read_masks, read_points
from segmentarium.losses import FocalSetLoss, PointSetLoss, Segments, SetLoss, segments_of

COSTS = {"class": 1.0, "mask": 2.0, "dice": 3.0}
LOSSES = [FocalSetLoss(COSTS), PointSetLoss(COSTS, points=64)]
SIZE = (16, 24)


def squares() -> Segments:
    """A left half of class 2, a small square of class 0 and one of class 2 in the right half."""
    masks = torch.zeros(3, *SIZE, dtype=torch.bool)
    masks[0, :, :12] = True
    masks[1, 2:6, 14:18] = True
    masks[2, 10:14, 18:22] = True
    return Segments(torch.tensor([2, 0, 2]), masks)


def answers(picture: Segments, order: list[int], queries: int = 6, confidence: float = 8.0) -> tuple[Tensor, Tensor]:
    """Class and mask logits (1, Q, …) of which query order[i] says segment i, and the others nothing."""
    classes = torch.zeros(1, queries, 4)
    classes[..., 3] = confidence
    masks = torch.full((1, queries, *SIZE), -confidence)
    for query, label, mask in zip(order, picture.labels, picture.masks, strict=True):
        classes[0, query] = 0.0
        classes[0, query, label] = confidence
        masks[0, query] = torch.where(mask, confidence, -confidence)
    return classes, masks


# matching -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES, ids=["focal", "points"])
def test_every_segment_gets_its_own_query(loss: SetLoss) -> None:
    """Two segments of one class are told apart by their masks."""
    picture = squares()
    for order in ([0, 1, 2], [5, 3, 0], [2, 4, 1]):
        classes, masks = answers(picture, order)
        query, segment = loss.match(classes[0], masks[0], picture)
        assert dict(zip(segment.tolist(), query.tolist(), strict=True)) == dict(enumerate(order))
        found = loss(classes, masks, [picture])
        assert found["class"] < 0.1
        if isinstance(loss, FocalSetLoss):  # points lie where masks are least sure, which is along their borders
            assert max(found.values()) < 0.1


def test_the_matching_is_the_cheapest_of_all() -> None:
    picture, loss = squares(), FocalSetLoss(COSTS)
    classes, masks = torch.randn(5, 4), torch.randn(5, *SIZE)

    def cost(pairs: list[tuple[int, int]]) -> float:
        """By definition, each pair by itself."""
        total = 0.0
        for query, segment in pairs:
            truth, logits = picture.masks[segment].float(), masks[query]
            p = logits.sigmoid()
            right = torch.where(picture.masks[segment], p, 1 - p)
            focal = torch.where(picture.masks[segment], 0.25, 0.75) * (1 - right) ** 2 * -right.log()
            dice = 1 - (2 * (p * truth).sum() + 1) / (p.sum() + truth.sum() + 1)
            label = classes[query].softmax(0)[picture.labels[segment]]
            total += float(-COSTS["class"] * label + COSTS["mask"] * focal.mean() + COSTS["dice"] * dice)
        return total

    cheapest = min(
        (list(zip(queries, range(3), strict=True)) for queries in itertools.permutations(range(5), 3)), key=cost
    )
    found = list(zip(*(numbers.tolist() for numbers in loss.match(classes, masks, picture)), strict=True))
    assert sorted(found) == sorted(cheapest)


@pytest.mark.parametrize("loss", LOSSES, ids=["focal", "points"])
def test_more_segments_than_queries(loss: SetLoss) -> None:
    picture = squares()
    classes, masks = (x[:, :2].clone().requires_grad_() for x in answers(picture, [0, 1, 2]))
    query, segment = loss.match(classes[0], masks[0], picture)
    assert sorted(query.tolist()) == [0, 1]
    assert sorted(segment.tolist()) == [0, 1]
    assert all(value.isfinite() for value in loss(classes, masks, [picture]).values())


@pytest.mark.parametrize("loss", LOSSES, ids=["focal", "points"])
def test_logits_that_are_not_finite_have_a_loss_that_is_not(loss: SetLoss) -> None:
    """So that the training can say so, instead of the matching."""
    classes, masks = answers(squares(), [0, 1, 2])
    assert (
        not torch.stack(list(loss(classes * float("nan"), masks * float("nan"), [squares()]).values())).isfinite().any()
    )


# what counts nowhere ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES, ids=["focal", "points"])
def test_ignored_pixels_change_nothing(loss: SetLoss) -> None:
    """What is said of them, and what the masks of segments are there."""
    picture = squares()
    valid = torch.ones(SIZE, dtype=torch.bool)
    valid[:, 4:8] = valid[9:15, 15:] = False
    classes, masks = torch.randn(1, 6, 4), torch.randn(1, 6, *SIZE)
    values, gradients = [], []
    for said in (False, True):
        given = masks.clone()
        changed = picture.masks.clone()
        if said:
            changed[:, ~valid] = torch.rand(3, int((~valid).sum())) > 0.5
            if isinstance(loss, FocalSetLoss):  # points between pixels read logits on both sides of the border
                given[:, :, ~valid] = 5 * torch.randn(1, 6, int((~valid).sum()))
        given.requires_grad_()
        torch.manual_seed(3)
        found = loss(classes, given, [Segments(picture.labels, changed, valid)])
        sum(found.values()).backward()  # type: ignore[union-attr]
        values.append(torch.stack(list(found.values())).detach())
        gradients.append(given.grad)
    torch.testing.assert_close(values[0], values[1])
    if isinstance(loss, FocalSetLoss):
        assert all(bool((gradient[:, :, ~valid] == 0).all()) for gradient in gradients)
    # the square that is ignored in whole is no segment, and what is left of the others still is
    assert segments_of([picture._replace(valid=valid)], 3)[0].labels.tolist() == [2, 0]


@pytest.mark.parametrize("loss", LOSSES, ids=["focal", "points"])
def test_a_picture_of_ignored_pixels_costs_nothing(loss: SetLoss) -> None:
    classes, masks = torch.randn(2, 6, 4, requires_grad=True), torch.randn(2, 6, *SIZE, requires_grad=True)
    void, picture = torch.full((2, *SIZE), 255), torch.full(SIZE, 255)
    picture[:, :12] = 1
    alone = loss(classes, masks, void)
    assert all(value == 0 for value in alone.values())
    sum(alone.values()).backward()  # type: ignore[union-attr]
    assert not classes.grad.any()
    assert not masks.grad.any()
    # beside another, it changes nothing
    torch.manual_seed(0)
    beside = loss(classes, masks, torch.stack((picture, void[0])))
    torch.manual_seed(0)
    single = loss(classes[:1], masks[:1], picture[None])
    for part, value in single.items():
        torch.testing.assert_close(beside[part], value)


@pytest.mark.parametrize("loss", LOSSES, ids=["focal", "points"])
def test_a_picture_that_shows_nothing_asks_for_no_object(loss: SetLoss) -> None:
    classes, masks = torch.zeros(1, 6, 4, requires_grad=True), torch.randn(1, 6, *SIZE, requires_grad=True)
    nothing = Segments(torch.zeros(0, dtype=torch.int64), torch.zeros(0, *SIZE, dtype=torch.bool))
    found = loss(classes, masks, [nothing])
    assert float(found["class"]) == pytest.approx(torch.log(torch.tensor(4.0)).item())
    assert found["mask"] == found["dice"] == 0
    sum(found.values()).backward()  # type: ignore[union-attr]
    assert bool((classes.grad[..., 3] < 0).all())
    assert not masks.grad.any()


def test_no_object_weighs_less() -> None:
    """One query in five is matched: its entropy has 1 of the 1.4 parts."""
    mask = torch.ones(1, *SIZE, dtype=torch.bool)
    classes = torch.zeros(1, 5, 4)
    classes[0, 1:, 3] = 20.0  # right, but for the matched query, which knows nothing
    loss = FocalSetLoss(COSTS, no_object=0.1)
    found = loss(classes, torch.zeros(1, 5, *SIZE), [Segments(torch.tensor([1]), mask)])
    assert float(found["class"]) == pytest.approx(torch.log(torch.tensor(4.0)).item() / 1.4, rel=1e-5)


# points ---------------------------------------------------------------------------------------------------------------


def test_points_are_where_masks_are_unsure_and_counted() -> None:
    logits = torch.linspace(-6, 6, SIZE[1]).expand(1, 1, *SIZE)  # unsure in the middle columns alone
    loss = PointSetLoss(COSTS, points=100, oversample=4.0)
    points = loss.choose(logits, [squares()], [1])[0]
    distance = (points[:, 0] - 0.5).abs()
    assert distance[:75].max() < 0.3  # 75 of 400: the middle fifth of the map, more or less
    assert distance[75:].max() > 0.4
    # and where nothing counts only if there is nothing else
    valid = torch.ones(SIZE, dtype=torch.bool)
    valid[:, 8:] = False
    points = loss.choose(logits, [squares()._replace(valid=valid)], [1])[0]
    assert points[:75, 0].max() < 8.5 / 24


def test_masks_are_read_as_maps_are() -> None:
    masks, points = torch.rand(4, 7, 9) > 0.5, torch.rand(4, 200, 2)
    torch.testing.assert_close(read_masks(masks, points), read_points(masks[:, None].float(), points)[:, 0])
    torch.testing.assert_close(read_masks(masks, points[:1]), read_points(masks[None].float(), points[:1])[0])


def test_all_channels_of_a_pixel_are_read_at_once_where_they_lie_so(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 9, 5, 7, generator=generator)
    points = torch.rand(2, 40, 2, generator=generator) * 1.4 - 0.2  # some beyond the edges
    points[:, :4] = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.5, 0.0], [0.5 / 7, 0.5 / 5]])
    wanted = read_points(maps.requires_grad_(), points).detach()  # by grid_sample
    calls = []
    inner = torch.nn.functional.embedding_bag
    monkeypatch.setattr(torch.nn.functional, "embedding_bag", lambda *a, **k: (calls.append(1), inner(*a, **k))[1])
    given = maps.detach().contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(read_points(given, points), wanted, rtol=1e-5, atol=1e-5)
    assert len(calls) == 1
    torch.testing.assert_close(read_points(maps.detach(), points), wanted)
    torch.testing.assert_close(read_points(given.requires_grad_(), points).detach(), wanted)
    assert read_points(given.detach(), points[:, :0]).shape == (2, 9, 0)
    assert len(calls) == 1


def test_a_point_counts_for_the_share_of_its_pixels_that_is_labelled() -> None:
    from segmentarium.losses.set_loss import read_truth

    masks = torch.tensor([[[True, False, False]]])
    valid = torch.tensor([[True, False, True]])
    between = torch.tensor([[[1 / 3, 0.5], [2 / 3, 0.5], [0.5, 0.5]]])  # on the borders of pixels, in the middle of one
    truth, weight = read_truth(Segments(torch.tensor([0]), masks, valid), masks, between)
    assert truth.tolist() == [[1.0, 0.0, 0.0]]
    torch.testing.assert_close(weight, torch.tensor([[0.5, 0.5, 0.0]]))


# targets ----------------------------------------------------------------------------------------------------------------


def test_a_label_map_makes_a_segment_of_each_class() -> None:
    labels = torch.tensor([[[3, 3, 0], [255, 1, 0]]])
    (picture,) = segments_of(labels, 4)
    assert picture.labels.tolist() == [0, 1, 3]
    assert picture.masks.sum((1, 2)).tolist() == [2, 1, 2]
    assert picture.valid is not None
    assert (~picture.valid).nonzero().tolist() == [[1, 0]]
    # of one class, label 1 is it
    (one,) = segments_of(labels.clamp(max=1), 1)
    assert one.labels.tolist() == [0]
    assert torch.equal(one.masks[0], labels[0].clamp(max=1) == 1)


def test_what_does_not_fit_is_said() -> None:
    picture = squares()
    with pytest.raises(ValueError, match=r"segments have the classes 2, but there are 2: give 0 to 1"):
        segments_of([picture], 2)
    with pytest.raises(ValueError, match=r"labels \(2,\), masks \(3, 16, 24\); give \(N,\), \(N, H, W\)"):
        segments_of([(picture.labels[:2], picture.masks)], 3)
    with pytest.raises(ValueError, match="masks of 2 pictures, and segments of 1"):
        FocalSetLoss(COSTS)(torch.zeros(2, 5, 4), torch.zeros(2, 5, 4, 4), [picture])
    with pytest.raises(ValueError, match="give those of class, mask and dice"):
        FocalSetLoss({"class": 1.0})
    with pytest.raises(ValueError, match="give 1 or more of both, and a share"):
        PointSetLoss(COSTS, importance=2.0)
