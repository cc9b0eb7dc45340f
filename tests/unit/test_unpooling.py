"""Reversible pooling, its exported form, and the layers that ENet and ERFNet change scale with."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.layers.fusion import fold_batch_norm, reparameterize
from segmentarium.layers.strided import ConvPool, Upconv
from segmentarium.layers.unpooling import ReversiblePool
from tests.parity.comparison import randomise

SIZES = [(8, 12), (9, 12), (8, 11), (9, 11), (2, 2)]
POOLS = [(2, False), (2, True), (3, False)]


def by_hand(x: Tensor, y: Tensor | None, kernel_size: int, round_up: bool) -> tuple[Tensor, Tensor]:
    """The maxima, and `y` (or they) put back, window after window in reading order."""
    height, width = x.shape[-2:]
    padding = kernel_size // 3
    rows, columns = ((height + 1) // 2, (width + 1) // 2) if round_up or padding else (height // 2, width // 2)
    maxima, undone = torch.empty(*x.shape[:2], rows, columns), torch.zeros_like(x)
    for b in range(x.shape[0]):
        for c in range(x.shape[1]):
            for i in range(rows):
                for j in range(columns):
                    places = [
                        (r, k)
                        for r in range(max(2 * i - padding, 0), min(2 * i - padding + kernel_size, height))
                        for k in range(max(2 * j - padding, 0), min(2 * j - padding + kernel_size, width))
                    ]
                    values = torch.stack([x[b, c, r, k] for r, k in places])
                    best = int((values == values.max()).nonzero()[0])
                    maxima[b, c, i, j] = values[best]
                    undone[b, c, *places[best]] = values[best] if y is None else y[b, c, i, j]
    return maxima, undone


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("kernel_size", "round_up"), POOLS)
@pytest.mark.parametrize("exporting", [False, True])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_values_go_back_to_where_the_maxima_stood(
    monkeypatch: pytest.MonkeyPatch,
    size: tuple[int, int],
    kernel_size: int,
    round_up: bool,
    exporting: bool,
    memory_format: torch.memory_format,
) -> None:
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: exporting)
    x = torch.randint(-3, 1, (2, 3, *size)).float()  # many equal values
    pool = ReversiblePool(kernel_size, round_up=round_up)
    maxima, places = pool(x.to(memory_format=memory_format))
    y = torch.randn(maxima.shape)
    expected, undone = by_hand(x, y, kernel_size, round_up)
    assert torch.equal(maxima, expected)
    assert torch.equal(pool.undo(y.to(memory_format=memory_format), places, size), undone)


@pytest.mark.parametrize(("kernel_size", "round_up"), POOLS)
def test_only_the_value_that_is_put_back_gets_the_gradient(kernel_size: int, round_up: bool) -> None:
    x = torch.randint(0, 4, (1, 2, 7, 10)).float()
    pool = ReversiblePool(kernel_size, round_up=round_up)
    maxima, places = pool(x)
    y = torch.arange(1.0, maxima.numel() + 1).view_as(maxima).requires_grad_()
    undone = pool.undo(y, places, (7, 10))
    undone.sum().backward()
    assert y.grad is not None
    assert torch.equal(y.grad, torch.isin(y.detach(), undone).float())
    assert kernel_size == 2 or bool((y.grad == 0).any())


def test_other_windows_are_refused() -> None:
    with pytest.raises(ValueError, match="kernel_size is 4; give 2 or 3"):
        ReversiblePool(4)


@pytest.mark.parametrize("pool_size", [2, 3])
def test_convolution_beside_pooling(pool_size: int) -> None:
    down = randomise(ConvPool(3, 16, pool_size=pool_size, act=nn.PReLU))
    for size in SIZES:
        x = torch.randn(2, 3, *size)
        before = down(x)
        assert before.shape == (2, 16, (size[0] + 1) // 2, (size[1] + 1) // 2)
    x = torch.randn(2, 3, 9, 12)
    with torch.no_grad():
        before = down(x)
        reparameterize(nn.Sequential(down))
        reparameterize(nn.Sequential(down))  # a second time changes nothing
        assert isinstance(down.norm, nn.Identity)
        torch.testing.assert_close(down(x), before)
    with pytest.raises(ValueError, match="out_channels is 3 and in_channels 3"):
        ConvPool(3, 3)


@pytest.mark.parametrize(("kernel_size", "padding", "extra"), [(2, 0, 0), (2, 0, 1), (3, 1, 1)])
@pytest.mark.parametrize("size", [(10, 14), (9, 13), (11, 15)])
def test_upsampling_to_a_given_size(
    monkeypatch: pytest.MonkeyPatch, kernel_size: int, padding: int, extra: int, size: tuple[int, int]
) -> None:
    up = Upconv(4, 6, kernel_size, 2, padding, output_padding=extra)
    base = kernel_size - 2 - 2 * padding  # beyond twice the input's side
    if any(s > 2 * n + base + extra for s, n in zip(size, (5, 7), strict=True)):
        pytest.skip("larger than the kernel reaches")
    x = torch.randn(2, 4, 5, 7)
    full = F.conv_transpose2d(x, up.weight, up.bias, 2, padding, extra)
    assert torch.allclose(up(x, size), full[..., : size[0], : size[1]], atol=1e-6)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    assert torch.allclose(up(x, size), full[..., : size[0], : size[1]], atol=1e-6)


@pytest.mark.parametrize(("groups", "folded"), [(1, 1), (2, 0)])
def test_norms_after_transposed_convolutions_are_folded(groups: int, folded: int) -> None:
    model = randomise(nn.Sequential(nn.ConvTranspose2d(4, 6, 3, 2, groups=groups), nn.BatchNorm2d(6)))
    x = torch.randn(2, 4, 5, 7)
    with torch.no_grad():
        before = model(x)
        assert fold_batch_norm(model, torch.zeros(1, 4, 8, 8)) == folded
        torch.testing.assert_close(model(x), before)
