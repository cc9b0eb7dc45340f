"""The second stage of "a good box is not a guarantee of a good mask", and classifiers of long tails in a detector."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from segmentarium.instances.cascade import CascadeDecoder
from segmentarium.instances.class_scores import long_tail_arguments
from segmentarium.instances.good_mask import BalancedMaskLoss, RoIAlignByShare, labelled_shares, share_of, two_stages
from segmentarium.instances.htc import HYBRID, TINY
from segmentarium.layers.roi_align import RoIAlign
from segmentarium.losses import Segments

STRIDES = (4, 8, 16, 32)


def _rois(*sides: tuple[float, float]) -> Tensor:
    return torch.tensor([[0.0, 3.0, 5.0, 3 + wide, 5 + high] for wide, high in sides])


def test_full_masks_are_seen_where_their_boxes_are_and_thin_ones_never_coarser() -> None:
    align = RoIAlignByShare(STRIDES, 14)
    rois = _rois(*((2.0**i, 2.0 ** (i / 2 + 3)) for i in range(2, 11)))
    usual = RoIAlign(STRIDES, 14).levels(rois)
    assert torch.equal(align.levels(rois), usual)
    before = usual
    for share in (1.0, 0.5, 0.3, 0.1, 0.03, 0.0):
        levels = align.levels(rois, torch.full((len(rois),), share))
        if share >= 0.5:
            assert torch.equal(levels, usual)
        assert (levels <= before).all()
        before = levels
    assert not before.any()  # nothing of it is to be seen: the finest


def test_a_thin_mask_is_seen_where_a_full_one_of_its_area_is() -> None:
    align = RoIAlignByShare(STRIDES, 14)
    large, small = _rois((400.0, 400.0)), _rois((100.0, 100.0))
    assert align.levels(large).item() == 2
    assert align.levels(large, torch.tensor([0.5 / 16])).item() == align.levels(small).item() == 0


def test_level_follows_box_and_share_and_not_share_alone() -> None:
    align = RoIAlignByShare(STRIDES, 14)
    shares = torch.full((3,), 0.1)
    assert align.levels(_rois((60, 60), (300, 300), (900, 900)), shares).tolist() == [0, 1, 2]


def test_shares_are_of_the_objects_own_box_or_of_the_mask_in_its_box() -> None:
    masks = torch.zeros(2, 20, 20, dtype=torch.bool)
    masks[0, 2:12, 4:14] = True
    masks[1] = torch.eye(20, dtype=torch.bool)
    truth = [
        (Segments(torch.tensor([0]), masks[:1]), torch.tensor([[4.0, 2, 14, 12]])),
        (Segments(torch.tensor([0, 1]), masks), torch.tensor([[4.0, 2, 14, 12], [0, 0, 20, 20]])),
    ]
    rois = torch.tensor([[1.0, 0, 0, 20, 20], [0, 0, 0, 3, 3], [1, 4, 2, 14, 12]])
    torch.testing.assert_close(labelled_shares(rois, torch.tensor([1, 0, 0]), truth), torch.tensor([0.05, 1, 1]))
    found = torch.zeros(3, 28, 28)
    found[0, :14] = 0.9
    found[1] = 0.4
    found[2, 0, 0] = 1
    torch.testing.assert_close(share_of(found), torch.tensor([0.5, 1.0, 1 / 784]))  # an empty one tells nothing


def _slopes(loss: BalancedMaskLoss, share: float) -> tuple[float, float]:
    """Sum of the gradients of foreground and background of a region with a share of foreground, at logits of 0."""
    logits = torch.zeros(1, 10, 10, requires_grad=True)
    targets = torch.zeros(1, 100)
    targets[:, : round(100 * share)] = 1
    targets = targets.reshape(1, 10, 10)
    (slope,) = torch.autograd.grad(loss(logits, targets, torch.ones(1, 10, 10)), logits)
    return -float(slope[targets == 1].sum()), float(slope[targets == 0].sum())


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9])
def test_balance_goes_from_the_plain_mean_to_halves(share: float) -> None:
    odds = share / (1 - share)
    for balance in (0.0, 0.5, 1.0):
        foreground, background = _slopes(BalancedMaskLoss(balance), share)
        assert foreground / background == pytest.approx(odds ** (1 - balance), rel=1e-4)
        assert foreground + background == pytest.approx(0.5, rel=1e-4)  # as much as any other region
    logits, targets = torch.randn(4, 7, 7), (torch.rand(4, 7, 7) < share).float()
    plain = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)
    torch.testing.assert_close(BalancedMaskLoss(0)(logits, targets, torch.ones_like(targets)), plain)


def test_cells_that_do_not_count_and_regions_without_any() -> None:
    loss = BalancedMaskLoss()
    logits, targets = torch.randn(3, 6, 6, requires_grad=True), (torch.rand(3, 6, 6) < 0.3).float()
    weights = torch.ones(3, 6, 6)
    weights[0, :3], weights[2] = 0, 0
    value = loss(logits, targets, weights)
    (slope,) = torch.autograd.grad(value, logits)
    assert not slope[weights == 0].any()
    alone = [loss(logits[i : i + 1], targets[i : i + 1], weights[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(value, torch.stack(alone).mean())
    empty = loss(logits[:0], targets[:0], weights[:0])
    assert empty.item() == 0
    nothing = loss(logits, targets, torch.zeros_like(weights))
    assert nothing.item() == 0
    nothing.backward()
    # a region that is all foreground, or has none, learns from what there is
    assert _slopes(loss, 1.0) == pytest.approx((0.5, 0))
    assert _slopes(loss, 0.0) == pytest.approx((0, 0.5))
    with pytest.raises(ValueError, match=r"0 \(plain mean"):
        BalancedMaskLoss(2)


def _decoder(**arguments: Any) -> CascadeDecoder:
    return CascadeDecoder(
        channels=(8, 8, 8, 8), strides=STRIDES, num_classes=4, **{**TINY, **HYBRID, "score": 0.0, **arguments}
    )


def _features(size: int = 256) -> list[Tensor]:
    return [torch.randn(2, 8, size // stride, size // stride) for stride in STRIDES]


def _segments() -> list[Segments]:
    masks = torch.zeros(2, 256, 256, dtype=torch.bool)
    masks[0] = (torch.arange(256)[:, None] - torch.arange(256)).abs() < 3  # thin, in a large box
    masks[1, 20:60, 30:90] = True
    return [Segments(torch.tensor([1, 3]), masks), Segments(torch.tensor([2]), masks[1:])]


def _loss(decoder: CascadeDecoder) -> Tensor:
    outputs = decoder.forward_train(_features(), (256, 256), _segments())
    terms = [term for term in decoder.objective() if term.on is None]  # but the semantic one
    return torch.stack([term.weight * term.loss(*(outputs[name] for name in term.of)) for term in terms]).sum()


@pytest.mark.parametrize("name", ["eql", "eqlv2", "seesaw", "bags", "federated"])
def test_every_classifier_stands_in_a_detector(name: str) -> None:
    """Trains with its loss, a gradient for every parameter of the classifiers, and finds classes with scores from 0 to 1."""
    decoder = _decoder(**long_tail_arguments(name, [900, 50, 8, 1], [2000, 90, 8, 1], 1000))
    _loss(decoder).backward()
    for head in decoder.boxes:
        for parameter in head.classifier.parameters():
            assert parameter.grad is not None
            assert torch.isfinite(parameter.grad).all()
            assert parameter.grad.any()
    with torch.no_grad():
        found = decoder.eval()(_features(), (256, 256))
    assert found.scores.min() >= 0
    assert found.scores.max() <= 1
    assert set(found.labels.unique().tolist()) <= {-1, 0, 1, 2, 3}
    with pytest.raises(ValueError, match="no loss of long tails"):
        long_tail_arguments("ohem", [1], [1], 1)


def test_the_second_look_is_taken_where_masks_are_thin() -> None:
    torch.manual_seed(2)
    plain, other = _decoder(), _decoder(mask_levels="share", mask_loss="balanced")
    other.load_state_dict(plain.state_dict())
    plain.eval(), other.eval()
    maps, rois = plain.maps(_features()), _rois((200, 200), (40, 40), (230, 220))
    labels = torch.tensor([1, 2, 0])
    scene = plain.semantic(maps) if plain.semantic is not None else None
    first = plain.masked(maps, scene, rois, labels)
    found = other.masked(maps, scene, rois, labels)
    shares = share_of(first)
    usual = plain.mask_regions.levels(rois)
    levels = other.mask_regions.levels(rois, shares)
    assert torch.equal(found, torch.where((levels == usual)[:, None, None], first, found))
    looked = [0.01, 1.0, 0.01]  # as if the first look had told so
    wanted = other.mask_regions.levels(rois, torch.tensor(looked))
    assert wanted.tolist() == [0, 0, 0]
    assert not torch.equal(other.look(maps, scene, rois, labels, wanted)[0], first[0])
    torch.testing.assert_close(other.look(maps, scene, rois, labels, wanted)[1], first[1])


def test_both_stages_have_the_same_weights_but_for_the_classifier() -> None:
    told = ([900, 50, 8, 1], [2000, 90, 8, 1], 1000)
    first, second = two_stages(long_tail_arguments("eql", *told), long_tail_arguments("bags", *told))
    one, two = _decoder(**first).state_dict(), _decoder(**second).state_dict()
    assert one.keys() == two.keys()
    differing = {key for key in one if one[key].shape != two[key].shape}
    assert differing == {f"boxes.{i}.classifier.scores.{part}" for i in range(3) for part in ("weight", "bias")}
    value = _loss(_decoder(**second))
    assert torch.isfinite(value)
    value.backward()
