"""Linear layers through oneDNN: the numbers and gradients of PyTorch's, in every place where they stand."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from segmentarium.layers.mlp import MLP
from segmentarium.layers.onednn import has_operators
from segmentarium.training import linear
from segmentarium.training.linear import QuickLinear, quicken

pytestmark = pytest.mark.skipif(
    not has_operators("_linear_pointwise"), reason="this PyTorch has no linear layers of oneDNN's"
)


def quick(plain: nn.Linear) -> QuickLinear:
    layer = copy.deepcopy(plain)
    assert quicken(layer) == 1
    assert isinstance(layer, QuickLinear)
    return layer


@pytest.mark.parametrize("shape", [(300, 48), (2, 150, 48), (2, 3, 50, 48)])
@pytest.mark.parametrize("bias", [True, False])
def test_numbers_and_gradients_are_those_of_pytorch(
    shape: tuple[int, ...], bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[torch.Size] = []
    inner = linear.linear
    monkeypatch.setattr(linear, "linear", lambda x, *rest: (calls.append(x.shape), inner(x, *rest))[1])
    torch.manual_seed(0)
    plain, x = nn.Linear(48, 70, bias=bias), torch.randn(shape)
    found = []
    for layer in (plain, quick(plain)):
        given = x.transpose(0, -2).contiguous().transpose(0, -2).requires_grad_()  # not in order
        out = layer(given)
        out.square().sum().backward()
        found.append([out.detach(), given.grad, *(p.grad for p in layer.parameters())])
    for ours, theirs in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-3)
    assert len(calls) == 3  # the pass and both gradients


@pytest.mark.parametrize("shape", [(300, 48), (2, 150, 48)])
def test_the_activation_behind_may_write_in_place(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    plain, x = nn.Linear(48, 70), torch.randn(shape)
    found = []
    for layer in (plain, quick(plain)):
        nn.Sequential(layer, nn.ReLU(inplace=True))(x).square().sum().backward()
        found.append(layer.weight.grad)
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-3)


def test_what_needs_no_gradient_gets_none() -> None:
    layer = quick(nn.Linear(64, 128))
    layer.weight.requires_grad_(False)
    layer(torch.randn(100, 64)).sum().backward()
    assert layer.weight.grad is None
    torch.testing.assert_close(layer.bias.grad, torch.full((128,), 100.0))
    with torch.no_grad():
        assert layer(torch.randn(100, 64)).grad_fn is None


def test_small_half_and_double_layers_stay_with_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "linear", None)
    layer = quick(nn.Linear(64, 128))
    assert layer(torch.randn(3, 64)).shape == (3, 128)
    assert layer(torch.randn(64)).shape == (128,)
    assert layer.double()(torch.randn(200, 64).double()).dtype == torch.float64
    with torch.autocast("cpu", torch.bfloat16):
        assert layer.float()(torch.randn(200, 64)).dtype == torch.bfloat16


def test_a_network_keeps_its_keys_and_is_copied() -> None:
    network = MLP(16, 32)
    keys = list(network.state_dict())
    assert quicken(network) == 2
    assert quicken(network) == 0
    assert list(copy.deepcopy(network).state_dict()) == keys
