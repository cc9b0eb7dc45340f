"""DANet's two attentions against their definitions; all pairs of places in bounded memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from segmentarium.layers import attention
from segmentarium.layers.attention import attend_bounded
from segmentarium.semantic.danet import ChannelAttention, PositionAttention
from tests.unit.tensor_sizes import largest_tensor


def _naive(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    return (scale * query @ key.transpose(1, 2)).softmax(2) @ value


def test_chunks_are_exact_and_their_gradients_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "SCORES", 2 * 70 * 9)  # 9 queries at a time
    query, key, value = torch.randn(2, 50, 4), torch.randn(2, 70, 4), torch.randn(2, 70, 12)
    results = []
    for function in (attend_bounded, _naive):
        given = [x.clone().requires_grad_() for x in (query, key, value)]
        y = function(*given, 0.7)
        results.append([y, *torch.autograd.grad(y.square().sum(), given)])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_scores_of_all_pairs_never_stand_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "SCORES", 4096)
    block = PositionAttention(16)
    x = torch.randn(1, 16, 20, 20)
    with torch.no_grad():
        assert largest_tensor(lambda: block(x)) <= 16 * 400
    x.requires_grad_()
    assert largest_tensor(lambda: block(x).sum().backward()) <= 16 * 400  # naively 400 * 400


@torch.no_grad()
def test_positions_have_no_place() -> None:
    """Whatever order the pixels are in, each gets the same: similarity alone counts, at any distance."""
    block = PositionAttention(16)
    block.gamma.fill_(0.8)
    x = torch.randn(1, 16, 6, 7)
    order = torch.randperm(42)
    mixed = x.flatten(2)[..., order].unflatten(2, (6, 7))
    torch.testing.assert_close(block(mixed), block(x).flatten(2)[..., order].unflatten(2, (6, 7)), rtol=1e-4, atol=1e-5)
    far = x.clone()
    far[..., -1, -1] += 1
    assert (block(far) - block(x))[..., 0, 0].abs().max() > 1e-5


@torch.no_grad()
def test_channels_look_at_those_unlike_themselves() -> None:
    block = ChannelAttention()
    x = torch.randn(2, 5, 4, 6)
    torch.testing.assert_close(block(x), x)  # gamma is 0
    block.gamma.fill_(1.0)
    flat = x.flatten(2)
    energy = flat @ flat.transpose(1, 2)
    weights = (energy.amax(2, keepdim=True) - energy).softmax(2)
    torch.testing.assert_close(block(x), (weights @ flat).unflatten(2, (4, 6)) + x, rtol=1e-4, atol=1e-5)
    twins = torch.stack([x[0, 0], x[0, 0], -x[0, 0]])[None]
    # the first channel sees the third alone, and the two cancel
    assert block(twins)[0, 0].abs().max() < 1e-4


@torch.no_grad()
def test_channel_products_stay_exact_in_half_precision() -> None:
    block = ChannelAttention()
    block.gamma.fill_(1.0)
    x = 0.2 * torch.randn(1, 8, 24, 32) + 1  # products of hundreds, which differ by a few
    exact = block(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = block(x)
    assert (half - exact).abs().max() < 0.02 * exact.abs().max()
