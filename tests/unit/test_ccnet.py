"""Criss-cross attention against loops over pixels, how far it reaches, and the category-consistent loss by its definition."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from segmentarium import create_model
from segmentarium.losses import CategoryConsistency
from segmentarium.semantic.ccnet import CCDecoder, CrissCrossAttention
from tests.unit.tensor_sizes import largest_tensor


def _block(channels: int = 8) -> CrissCrossAttention:
    block = CrissCrossAttention(channels, 4)
    assert block.gamma is not None
    block.gamma.data.fill_(0.9)
    return block


@torch.no_grad()
@pytest.mark.parametrize("size", [(4, 6), (5, 3), (1, 7), (6, 1), (1, 1)])
def test_each_pixel_sees_its_cross_once(size: tuple[int, int]) -> None:
    block = _block()
    x = torch.randn(2, 8, *size)
    query, key, value = (layer(x.permute(0, 2, 3, 1)) for layer in (block.query, block.key, block.value))
    expected = torch.empty_like(x)
    for b, i, j in itertools.product(range(2), range(size[0]), range(size[1])):
        cross = [(i, n) for n in range(size[1])] + [(m, j) for m in range(size[0]) if m != i]
        weights = torch.stack([query[b, i, j] @ key[b, m, n] for m, n in cross]).softmax(0)
        seen = sum(w * value[b, m, n] for w, (m, n) in zip(weights, cross, strict=True))
        expected[b, :, i, j] = x[b, :, i, j] + block.gamma * seen
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)


def _reached(passes: int, size: tuple[int, int] = (6, 9), at: tuple[int, int] = (2, 4)) -> Tensor:
    """(H, W): which pixels matter to the one at `at`."""
    block = _block()
    x = torch.randn(1, 8, *size, requires_grad=True)
    y = x
    for _ in range(passes):
        y = block(y)
    (slope,) = torch.autograd.grad(y[0, :, at[0], at[1]].sum(), x)
    return slope[0].abs().amax(0) > 0


def test_one_pass_reaches_the_cross_and_two_reach_everything() -> None:
    cross = torch.zeros(6, 9, dtype=torch.bool)
    cross[2], cross[:, 4] = True, True
    assert torch.equal(_reached(1), cross)
    assert _reached(2).all()


@torch.no_grad()
def test_passes_share_their_weights() -> None:
    heads = [CCDecoder(channels=(32,), strides=(8,), num_classes=3, recurrence=r).eval() for r in (1, 2, 3)]
    assert len({sum(p.numel() for p in head.parameters()) for head in heads}) == 1
    one, two, three = heads
    one.attention.gamma.fill_(0.5)
    two.load_state_dict(one.state_dict())
    three.load_state_dict(one.state_dict())
    x = torch.randn(1, 32, 5, 6)
    before = one.before(x)
    torch.testing.assert_close(two._context(x), one.attention(one.attention(before)))
    assert not torch.allclose(two([x]), three([x]))
    with pytest.raises(ValueError, match="recurrence is 0"):
        CCDecoder(channels=(32,), strides=(8,), num_classes=3, recurrence=0)


@torch.no_grad()
def test_scores_are_of_rows_and_columns_alone() -> None:
    x = torch.randn(1, 8, 24, 40)
    assert largest_tensor(lambda: _block()(x)) == 24 * 40 * (24 + 40)  # all pairs: 24 * 40 * 24 * 40


# the category-consistent loss --------------------------------------------------------------------------------------


def _naive(features: Tensor, target: Tensor, margin: float = 0.5, reach: float = 1.5) -> Tensor:
    pixels = features.permute(0, 2, 3, 1)
    classes = [int(c) for c in target.unique() if c != 255]
    means = {c: pixels[target == c].mean(0) for c in classes}
    variance = []
    for c in classes:
        costs = []
        for pixel in pixels[target == c]:
            d = (pixel - means[c]).norm()
            costs.append(
                torch.zeros(())
                if d <= margin
                else (d - margin) ** 2
                if d <= reach
                else d - reach + (reach - margin) ** 2
            )
        variance.append(torch.stack(costs).mean())
    pairs = [
        (2 * reach - (means[a] - means[b]).norm()).clamp(min=0) ** 2 for a, b in itertools.permutations(classes, 2)
    ]
    size = torch.stack([mean.norm() for mean in means.values()]).mean()
    return torch.stack(variance).mean() + (torch.stack(pairs).mean() if pairs else 0) + 0.001 * size


@pytest.mark.parametrize("spread", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("classes", [(0, 2, 5), (1,)])
def test_the_loss_is_its_definition(spread: float, classes: tuple[int, ...]) -> None:
    features = (spread * torch.randn(2, 4, 5, 6)).requires_grad_()
    target = torch.tensor(classes)[torch.randint(0, len(classes), (2, 5, 6))]
    target[0, 0] = 255
    loss, expected = CategoryConsistency(7)(features, target), _naive(features, target)
    torch.testing.assert_close(loss, expected)
    slopes = [torch.autograd.grad(x, features, retain_graph=True)[0] for x in (loss, expected)]
    torch.testing.assert_close(*slopes)
    assert (slopes[0][0, :, 0] == 0).all()  # ignored pixels


def test_close_features_of_classes_far_apart_cost_their_length_alone() -> None:
    target = torch.tensor([[[0, 0, 1, 1]]])
    features = torch.tensor([[0.0, 0.4, 4.0, 4.4]]).view(1, 1, 1, 4)
    loss = CategoryConsistency(2, weights=(1.0, 1.0, 0.0))
    assert loss(features, target) == 0
    assert float(loss(features / 2, target)) == pytest.approx((3 - 2.0) ** 2)


def test_equal_features_and_void_have_finite_gradients() -> None:
    features = torch.zeros(1, 4, 3, 3, requires_grad=True)
    target = torch.arange(9).view(1, 3, 3)
    loss = CategoryConsistency(9)
    value = loss(features, target)
    assert float(value.detach()) == pytest.approx(9.0, abs=1e-3)  # all means in one place: (2 * 1.5)²
    (slope,) = torch.autograd.grad(value, features)
    assert slope.isfinite().all()
    nothing = loss(features, torch.full_like(target, 255))
    assert nothing == 0
    assert (torch.autograd.grad(nothing, features)[0] == 0).all()
    with pytest.raises(ValueError, match="same height and width"):
        loss(features, target[:, :2])
    with pytest.raises(ValueError, match="margin"):
        CategoryConsistency(9, margin=2.0)


def test_the_option_adds_a_term_that_deploy_takes_away() -> None:
    model = create_model("ccnet", backbone="resnet18", num_classes=3, consistent=True)
    assert [term.name for term in model.objective] == ["logits", "consistency", "aux"]
    image = torch.randn(2, 3, 32, 32)
    target = torch.randint(0, 3, (2, 32, 32))
    losses = model.criterion(model.forward_train(image), {"mask": target})
    losses["consistency"].backward()
    assert model.decoder.embedding.weight.grad.abs().max() > 0
    assert not any("embedding" in key for key in model.deploy().state_dict())
    plain = create_model("ccnet", backbone="resnet18", num_classes=3)
    assert [term.name for term in plain.objective] == ["logits", "aux"]
