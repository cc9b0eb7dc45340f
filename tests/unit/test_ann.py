"""ANN: 110 keys whatever the size, no map of pairs, and what was moved past the attention is what stood behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from segmentarium.meta import on_meta
from segmentarium.registry import create_model
from segmentarium.semantic.ann import ANNDecoder, AsymmetricNonLocal, sample
from tests.parity.comparison import exercised, randomise, relative_error


class Largest(TorchDispatchMode):
    """Notes how many numbers the largest tensor has that is made."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, Tensor):
                self.numbers = max(self.numbers, tensor.numel())
        return made


def block(low: int = 12, high: int = 16, **arguments: Any) -> Any:
    made = exercised(AsymmetricNonLocal((low, high), 16, 8, **arguments))
    return randomise(made)


def naive(made: Any, low: Tensor, high: Tensor) -> Tensor:
    """As the public code has it: everything projected in full, averaged, the answer projected, concatenated, fused."""
    keys = made.key(low)
    queries = keys if made.query is None else made.query(high)
    levels = [[F.adaptive_avg_pool2d(x, size).flatten(2) for size in (1, 3, 6, 8)] for x in (keys, made.value(low))]
    places, values = (torch.cat(x, 2) for x in levels)
    weights = (queries.flatten(2).transpose(1, 2) @ places * places.shape[1] ** -0.5).softmax(2)
    answer = made.project((weights @ values.transpose(1, 2)).transpose(1, 2).unflatten(2, high.shape[2:]))
    weight = torch.cat([made.fuse_answer.weight, made.fuse_feature.weight], 1)
    return made.act(made.norm(F.conv2d(torch.cat([answer, high], 1), weight, made.fuse_feature.bias)))


@torch.no_grad()
def test_there_are_110_keys_whatever_the_size() -> None:
    for height, width in ((9, 13), (48, 64), (5, 5)):
        x = torch.rand(1, 3, height, width)
        places = sample(x, (1, 3, 6, 8))
        assert places.shape == (1, 3, 1, 110)
        assert torch.equal(places[..., 0, 0], x.mean((2, 3)))
    height, width = 96, 128
    low, high = torch.rand(1, 12, height, width), torch.rand(1, 16, height, width)
    with Largest() as largest:
        block()(low, high)
    assert (
        largest.numbers <= 110 * height * width
    )  # the weights, at most; pairs of pixels would be 12,288 times as many


@torch.no_grad()
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_what_was_moved_past_the_attention_changes_nothing(shared: bool, bias: bool) -> None:
    made = block(16 if shared else 12, shared=shared, bias=bias)
    high = torch.randn(2, 16, 13, 10)
    low = high if shared else torch.randn(2, 12, 26, 20)  # of a backbone that is not dilated
    expected = naive(made, low, high)
    assert expected.std() > 0.1
    assert relative_error(made(low, high), expected) < 1e-5
    before = sum(p.numel() for p in made.parameters())
    for _ in range(2):
        made.reparameterize()
        assert relative_error(made(low, high), expected) < 1e-5
    assert sum(p.numel() for p in made.parameters()) < before


@torch.no_grad()
def test_the_answer_starts_at_zero_and_keys_are_queries_in_the_second_block() -> None:
    model: Any = ANNDecoder(channels=(8, 32), strides=(8, 8), num_classes=3).eval()
    assert model.context.query is None
    assert model.fusion.query is not None
    low, high = torch.randn(1, 8, 6, 7), torch.randn(1, 32, 6, 7)
    torch.testing.assert_close(model.fusion(low, high), model.fusion.norm(model.fusion.fuse_feature(high)))


def test_it_needs_two_features() -> None:
    with pytest.raises(ValueError, match="the two deepest features; this backbone has one"):
        ANNDecoder(channels=(8,), strides=(8,), num_classes=3)
    with pytest.raises(ValueError, match="form is 'theirs'; give one of 'mmseg', 'authors'"):
        ANNDecoder(channels=(8, 8), strides=(8, 8), num_classes=3, form="theirs")


def test_published_parameters() -> None:
    with on_meta():
        model: Any = create_model("ann", num_classes=19)
    assert sum(p.numel() for p in model.decoder.parameters()) == 20_336_659
