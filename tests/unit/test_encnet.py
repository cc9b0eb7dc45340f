"""EncNet's encoding by its definition, without the residuals in memory; what its code depends on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from segmentarium.semantic.encnet import ContextEncoding, EncDecoder, Encoding
from tests.unit.tensor_sizes import largest_tensor


def _naive(layer: Encoding, x: Tensor) -> Tensor:
    residuals = x[:, :, None] - layer.codewords  # (B, N, K, C)
    weights = (layer.scale * residuals.square().sum(3)).softmax(2)
    return (weights[..., None] * residuals).sum(1)


def test_the_expanded_square_is_the_definition() -> None:
    layer = Encoding(12, 5)
    x = (2 + torch.randn(2, 30, 12)).requires_grad_()
    given = [x, layer.codewords, layer.scale]
    results = []
    for y in (layer(x), _naive(layer, x)):
        results.append([y, *torch.autograd.grad(y.square().sum(), given)])
    for ours, expected in zip(*results, strict=True):
        assert (ours - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_residuals_never_stand_in_memory() -> None:
    layer = Encoding(32, 16)
    x = torch.randn(1, 200, 32, requires_grad=True)
    assert largest_tensor(lambda: layer(x).sum().backward()) == 200 * 32  # the residuals: 200 * 16 * 32
    assert -1 < layer.scale.min() <= layer.scale.max() < 0


@torch.no_grad()
def test_with_large_factors_a_pixel_belongs_to_its_nearest_codeword() -> None:
    layer = Encoding(3, 4)
    layer.codewords.copy_(torch.randn(4, 3))
    layer.scale.fill_(-1e4)
    x = torch.randn(1, 50, 3)
    nearest = torch.cdist(x[0], layer.codewords).argmin(1)
    expected = torch.stack([(x[0, nearest == k] - layer.codewords[k]).sum(0) for k in range(4)])
    torch.testing.assert_close(layer(x)[0], expected, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_the_code_is_of_the_whole_picture_whatever_its_order() -> None:
    encoder = ContextEncoding(8, 4).eval()
    x = torch.randn(1, 8, 5, 6)
    mixed = x.flatten(2)[..., torch.randperm(30)].unflatten(2, (5, 6))
    torch.testing.assert_close(encoder(mixed), encoder(x), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_half_precision_keeps_the_distances() -> None:
    layer = Encoding(64, 8)
    x = 4 + torch.randn(1, 100, 64)
    exact = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = layer(x)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, exact)


@torch.no_grad()
def test_the_same_pixel_is_classified_by_its_surroundings() -> None:
    """The code reaches every pixel: what is in one corner changes the scores of the opposite one."""
    head = EncDecoder(channels=(32,), strides=(8,), num_classes=3).eval()
    x = torch.randn(1, 32, 9, 9)
    other = x.clone()
    other[..., -1, -1] += 3
    assert (head([x]) - head([other]))[..., 0, 0].abs().max() > 0


def test_lateral_wants_finer_features() -> None:
    with pytest.raises(ValueError, match="lateral=True wants"):
        EncDecoder(channels=(32,), strides=(16,), num_classes=3, lateral=True)
    head = EncDecoder(channels=(8, 16, 32), strides=(4, 8, 16), num_classes=3, lateral=True)
    features = [torch.randn(2, c, s, s) for c, s in ((8, 16), (16, 8), (32, 4))]
    assert head(features).shape == (2, 3, 4, 4)
