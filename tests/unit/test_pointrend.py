"""What makes PointRend what it is: where it is unsure, points between pixels, and finer borders."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from segmentarium.semantic.pointrend import PointLoss, PointRendDecoder, choose_points, read_points, uncertainty

FEATURES: dict[str, Any] = {"channels": (8, 16), "strides": (4, 8), "pyramid_channels": 8, "width": 8, "point_width": 8}


@pytest.mark.parametrize("classes", [2, 3, 19])
def test_uncertainty_is_the_margin_of_the_two_best(classes: int) -> None:
    logits = torch.randn(2, classes, 5, 7).round(decimals=1)  # with ties
    logits[0, :2, 0, 0] = 9.0
    two = logits.topk(2, 1).values
    assert torch.equal(uncertainty(logits), two[:, 1] - two[:, 0])
    assert uncertainty(logits)[0, 0, 0] == 0


def test_one_class_is_unsure_where_its_logit_is_near_zero() -> None:
    logits = torch.tensor([[[-3.0, 0.1, 2.0]]])
    assert torch.equal(uncertainty(logits), torch.tensor([[-3.0, -0.1, -2.0]]))


def test_points_are_read_between_the_centres_of_pixels() -> None:
    x = torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]])
    points = torch.tensor([[[0.25, 0.25], [0.75, 0.25], [0.5, 0.5], [0.25, 0.0]]])
    # the last lies on the edge, half a pixel from a centre, and reads half a zero
    torch.testing.assert_close(read_points(x, points)[0, 0], torch.tensor([0.0, 1.0, 1.5, 0.0]))
    torch.testing.assert_close(read_points(x + 1, points)[0, 0, 3], torch.tensor(0.5))
    nearest = read_points(x, torch.tensor([[[0.49, 0.1], [0.51, 0.9]]]), mode="nearest")
    assert nearest[0, 0].tolist() == [0.0, 3.0]


def test_training_draws_where_the_map_is_unsure() -> None:
    """A map whose classes meet in the middle: three quarters of the points lie there, the rest anywhere."""
    ramp = torch.linspace(-8, 8, 32).expand(1, 1, 32, 32)
    logits = torch.cat([ramp, -ramp], 1)
    candidates, random = torch.rand(1, 300, 2), torch.rand(1, 25, 2)
    points = choose_points(logits, candidates, random, 75)
    assert points.shape == (1, 100, 2)
    assert torch.equal(points[:, 75:], random)
    away = (points[0, :75, 0] - 0.5).abs()
    border = (candidates[0, :, 0] - 0.5).abs()
    at_edge = border > 0.5 - 1 / 64  # zeros around the map are unsure, too
    assert away.sort().values[:60].max() <= border[~at_edge].sort().values[74]


def test_the_loss_reads_the_label_under_each_point_and_skips_255() -> None:
    target = torch.tensor([[[0, 1], [255, 2]]])
    points = torch.tensor([[[0.2, 0.2], [0.9, 0.4], [0.1, 0.7], [0.6, 0.8]]])
    logits = torch.randn(1, 3, 4, requires_grad=True)
    loss = PointLoss()(points, logits, target)
    expected = F.cross_entropy(logits[0, :, [0, 1, 3]].T, torch.tensor([0, 1, 2]))
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad[..., 2] == 0).all()
    assert PointLoss()(points, logits, torch.full_like(target, 255)) == 0


@torch.no_grad()
def test_only_the_least_sure_points_are_drawn_anew() -> None:
    decoder: Any = PointRendDecoder(**FEATURES, num_classes=3, steps=1, step_points=20).eval()
    fine, coarse = torch.randn(2, 8, 6, 7), torch.randn(2, 3, 6, 7)
    doubled = F.interpolate(coarse, scale_factor=2.0, mode="bilinear")
    refined = decoder.refine(fine, coarse)
    changed = (refined != doubled).any(1)
    assert changed.sum((1, 2)).tolist() == [20, 20]
    margins = uncertainty(doubled)
    for i in range(2):
        assert margins[i][changed[i]].min() >= margins[i][~changed[i]].max()
    # what they become: the point head at their centres
    b, y, x = (int(v[3]) for v in changed.nonzero(as_tuple=True))
    point = torch.tensor([[[(x + 0.5) / 14, (y + 0.5) / 12]]])
    torch.testing.assert_close(refined[b, :, y, x], decoder.score(point, fine[b : b + 1], coarse[b : b + 1])[0, :, 0])


@torch.no_grad()
def test_steps_follow_the_stride_and_points_the_map() -> None:
    assert PointRendDecoder(**{**FEATURES, "strides": (2, 4)}, num_classes=3).finest == 1
    tall: Any = PointRendDecoder(**{**FEATURES, "strides": (16, 16)}, num_classes=3).eval()
    assert tall([torch.randn(1, 8, 4, 5), torch.randn(1, 16, 4, 5)]).shape == (1, 3, 16, 20)  # fewer places than points
    assert PointRendDecoder(**{**FEATURES, "strides": (4, 8)}, num_classes=3, steps=5).steps == 2
    with pytest.raises(ValueError, match="importance 2"):
        PointRendDecoder(**FEATURES, num_classes=3, importance=2.0)


def test_both_heads_learn_from_the_points() -> None:
    decoder = PointRendDecoder(**FEATURES, num_classes=3, points=16)
    decoder.head.classifier.weight.data.normal_()
    outputs = decoder.forward_train([torch.randn(2, 8, 8, 8), torch.randn(2, 16, 4, 4)])
    assert outputs["points"].shape == (2, 16, 2)
    assert not outputs["points"].requires_grad
    PointLoss()(outputs["points"], outputs["point_logits"], torch.randint(0, 3, (2, 32, 32))).backward()
    layers: list[Any] = [decoder.head.layers[0], decoder.classifier, decoder.pyramid.laterals[1]]
    for layer in layers:
        assert layer.weight.grad is not None
        assert layer.weight.grad.abs().max() > 0
