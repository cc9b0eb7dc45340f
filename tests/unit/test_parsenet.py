"""ParseNet: unit length times a learned factor, and the whole picture beside every pixel before they are classified."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from segmentarium.layers.norm import L2Norm
from segmentarium.semantic.parsenet import ParseDecoder
from tests.parity.comparison import exercised, randomise

X = torch.linspace(-4, 5, 2 * 6 * 3 * 4).view(2, 6, 3, 4).sin()


def norm(scale: float = 1.0) -> L2Norm:
    return L2Norm(6, scale)


def test_unit_length_times_the_factor_of_each_channel() -> None:
    layer = norm()
    assert torch.allclose(layer(X).norm(dim=1), torch.ones(2, 3, 4))
    torch.testing.assert_close(layer(7 * X), layer(X))
    assert torch.allclose(norm(10)(X).norm(dim=1), torch.full((2, 3, 4), 10.0))
    with torch.no_grad():
        layer.weight.copy_(torch.arange(6.0))
    torch.testing.assert_close(layer(X)[:, 3], 3 * norm()(X)[:, 3])
    assert layer(X)[:, 0].abs().max() == 0


def test_the_factor_s_gradient_is_the_direction_summed() -> None:
    layer = norm(5)
    weights = torch.randn(2, 6, 3, 4)
    (layer(X) * weights).sum().backward()
    assert layer.weight.grad is not None
    torch.testing.assert_close(layer.weight.grad, (F.normalize(X, dim=1) * weights).sum((0, 2, 3)))


def test_along_the_direction_there_is_no_gradient() -> None:
    x = X.clone().requires_grad_()
    (norm(5)(x) * torch.randn(2, 6, 3, 4)).sum().backward()
    assert x.grad is not None
    assert (x.grad * X).sum(1).abs().max() < 1e-4


def test_the_epsilon_stands_under_the_root() -> None:
    """So nothing divides by zero: a place without a feature stays so, with a gradient that is finite."""
    layer = norm(1)
    x = torch.zeros(1, 6, 1, 1, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.full_like(x, 1e5))
    small = torch.full((1, 6, 1, 1), 1e-5)
    torch.testing.assert_close(layer(small)[0, 0, 0, 0], torch.tensor(1e-5 / (6e-10 + 1e-10) ** 0.5))


def test_half_precision_does_not_overflow() -> None:
    large = (1000 * X).half()
    out = norm(10)(large)
    assert out.dtype == torch.float16
    torch.testing.assert_close(out.float(), norm(10)(X), atol=1e-2, rtol=1e-2)


def decoder(**arguments: Any) -> Any:
    return randomise(
        exercised(ParseDecoder(channels=(6,), strides=(8,), num_classes=3, decoder_channels=5, **arguments))
    )


@torch.no_grad()
def test_mean_and_pixels_are_normalised_concatenated_and_classified_together() -> None:
    """Early fusion as the paper draws it: pool, normalise, unpool, concatenate with the normalised map, one classifier."""
    model = decoder()
    x = model.reduce(X)
    mean = x.mean((2, 3), keepdim=True)
    parts = [model.norm(x), model.context_norm(mean).expand(-1, -1, *x.shape[2:])]
    weight = torch.cat([model.classifier.weight, model.context_classifier.weight], 1)
    expected = F.conv2d(torch.cat(parts, 1), weight, model.classifier.bias)
    torch.testing.assert_close(model([X]), expected)
    late = model.classifier(model.norm(x)) + F.conv2d(model.context_norm(mean), model.context_classifier.weight)
    torch.testing.assert_close(model([X]), late)  # with one layer, the sum of two classifiers is the same


@torch.no_grad()
def test_a_far_pixel_is_seen() -> None:
    model = decoder()
    x = torch.randn(1, 6, 9, 9)
    other = x.clone()
    other[..., 8, 8] += 5
    assert (model([other]) - model([x]))[..., 0, 0].abs().min() > 0
    model.context_classifier.weight.zero_()
    assert (model([other]) - model([x]))[..., 0, 0].abs().max() == 0


@torch.no_grad()
def test_without_norms_a_loud_context_drowns_the_pixels() -> None:
    """What the paper normalises for: scaling the feature leaves the normalised scores alone, and multiplies the others."""
    for normalise in (True, False):
        model = decoder(normalise=normalise)
        model.classifier.bias.zero_()
        model.reduce.norm.bias.zero_()
        model.reduce.norm.running_mean.zero_()
        before = model([X])
        model.reduce.norm.weight.mul_(10)
        torch.testing.assert_close(model([X]), before * (1 if normalise else 10), atol=1e-4, rtol=1e-4)
