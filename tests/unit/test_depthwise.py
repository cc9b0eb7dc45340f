"""Depthwise convolutions with own gradients: the numbers of PyTorch's in float32, wherever they stand."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from segmentarium.layers import depthwise
from segmentarium.layers.conv import sound_gradients
from segmentarium.layers.depthwise import DepthwiseConv2d


def gradients(layer: nn.Module, image: Tensor, mixed: bool) -> list[Tensor]:
    """Output, and gradients of the input and of the weights, of a loss that weighs every place in its own way."""
    given = image.clone(memory_format=torch.preserve_format).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        out = layer(given)
    assert out.dtype == (torch.bfloat16 if mixed else torch.float32)
    weigh = torch.linspace(-1, 2, out.numel()).view_as(out)
    (out.float() * weigh).sum().backward()
    assert given.grad is not None
    return [out.detach().float(), given.grad, *(one.grad for one in layer.parameters() if one.grad is not None)]


@pytest.mark.parametrize("mixed", [True, False], ids=["bf16", "float32"])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize("side", [1, 3, 5, 7])
@pytest.mark.parametrize("size", [(16, 22), (13, 17)])
def test_gradients_are_those_of_float32(
    size: tuple[int, int], side: int, stride: int, dilation: int, mixed: bool
) -> None:
    torch.manual_seed(0)
    padding = dilation * (side // 2)
    plain = nn.Conv2d(20, 20, side, stride, padding, dilation=dilation, groups=20, bias=side % 4 == 1)
    ours = copy.deepcopy(nn.Sequential(plain))
    sound_gradients(ours)
    assert isinstance(ours[0], DepthwiseConv2d)
    image = torch.randn(3, 20, *size).to(memory_format=torch.channels_last)
    expected = gradients(plain, image, mixed=False)
    for one, other in zip(gradients(ours, image, mixed), expected, strict=True):
        apart = (one - other).abs().max() / other.abs().max()
        assert apart < (1e-2 if mixed else 1e-5)


def test_taken_are_those_whose_gradients_are_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    inner = depthwise._Depthwise.apply
    monkeypatch.setattr(
        depthwise._Depthwise, "apply", lambda *given: (taken.append(given[1].shape[-1]), inner(*given))[1]
    )
    image = torch.randn(2, 8, 16, 16).to(memory_format=torch.channels_last)
    for mixed in (True, False):
        for side, more in (
            (5, {}),
            (7, {}),
            (5, {"dilation": 2, "padding": 4}),
            (4, {"padding": 1}),
            (5, {"padding": 0}),
        ):
            layer = DepthwiseConv2d(8, 8, side, groups=8, bias=False, **({"padding": side // 2} | more))
            gradients(layer, image, mixed)
            with torch.no_grad():
                layer(image)
        gradients(DepthwiseConv2d(8, 8, 5, padding=2, groups=8), image.contiguous(), mixed)
    assert taken == [5, 7, 7]


def test_a_frozen_kernel_gets_no_gradient_and_the_activation_behind_may_write_in_place() -> None:
    layer = DepthwiseConv2d(8, 8, 5, padding=2, groups=8).requires_grad_(False)
    image = torch.randn(2, 8, 16, 16).to(memory_format=torch.channels_last).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        nn.Sequential(layer, nn.ReLU(inplace=True))(image * 1).sum().backward()
    assert layer.weight.grad is None
    assert image.grad is not None
    assert bool(image.grad.any())
