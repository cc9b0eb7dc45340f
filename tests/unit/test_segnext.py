"""SegNeXt's Hamburger: what the factorisation is, and where its words come from."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from segmentarium.layers.resize import resize
from segmentarium.semantic.segnext import Hamburger, LightHamDecoder, factorise


def decoder(**arguments: object) -> LightHamDecoder:
    torch.manual_seed(0)
    given = {
        "channels": (4, 8, 12, 16),
        "strides": (4, 8, 16, 32),
        "num_classes": 3,
        "width": 32,
        "rank": 4,
        **arguments,
    }
    return LightHamDecoder(**given)


def features() -> list[Tensor]:
    return [torch.randn(2, c, 32 // s, 48 // s) for c, s in ((4, 1), (8, 2), (12, 4), (16, 8))]


def test_it_is_the_factorisation_written_plainly() -> None:
    x, words = torch.rand(2, 60, 9), torch.rand(2, 9, 4)
    for one, d in zip(x.double(), words.double(), strict=True):
        shares = (one @ d).softmax(1)
        for step in range(4):
            shares = shares * (one @ d) / (shares @ d.T @ d + 1e-6)
            if step < 3:
                d = d * (one.T @ shares) / (d @ shares.T @ shares + 1e-6)
        expected = shares @ d.T
        ours = factorise(one[None].float(), words[:1].float(), 3)[0]
        words = words.roll(1, 0)
        assert (ours - expected).abs().max() / expected.abs().max() < 1e-5


def test_updates_come_nearer_to_the_map_and_never_leave_the_non_negative() -> None:
    x, words = torch.rand(1, 200, 16), torch.rand(1, 16, 4)
    products = [factorise(x, words, steps) for steps in (0, 1, 3, 7, 30)]
    errors = [float((product - x).norm()) for product in products]
    assert errors == sorted(errors, reverse=True)
    assert all(bool((product >= 0).all()) for product in products)
    assert torch.linalg.matrix_rank(products[-1][0], rtol=1e-4) == 4  # a few words for two hundred places


def test_what_the_words_can_say_comes_back_whole() -> None:
    x = torch.rand(1, 50, 3) @ torch.rand(1, 3, 8)
    assert (factorise(x, torch.rand(1, 8, 3), 3000) - x).abs().max() < 0.02


def test_words_are_drawn_in_training_and_fixed_in_evaluation() -> None:
    block, x = Hamburger(32, 4), torch.randn(1, 32, 6, 7)
    assert not torch.equal(block(x), block(x))
    block.eval()
    assert torch.equal(block(x), block(x))
    assert torch.equal(block.start, Hamburger(32, 4).start), "the same in every process, whatever the seed"
    assert torch.allclose(block.start.norm(dim=0), torch.ones(4))
    assert "start" not in block.state_dict(), "the public files have none"
    fixed = Hamburger(32, 4, drawn=False)
    assert torch.equal(fixed(x), fixed(x))


def test_gradients_flow_through_all_updates() -> None:
    x = torch.rand(1, 10, 5, dtype=torch.float64, requires_grad=True)
    words = torch.rand(1, 5, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda given: factorise(given, words, 2), (x,))


def test_squeezing_each_level_is_squeezing_all_joined() -> None:
    model, given = decoder().eval(), features()
    joined = torch.cat([resize(x, given[1].shape[-2:]) for x in given[1:]], 1)
    expected = model.classifier(model.align(model.hamburger(model.squeeze(joined))))
    assert (model(given) - expected).abs().max() < 1e-5
    assert torch.equal(model([torch.zeros_like(given[0]), *given[1:]]), model(given)), "stride 4 is not looked at"


def test_wrong_arguments_are_told() -> None:
    with pytest.raises(ValueError, match="width is 40; group norm wants a multiple of 32"):
        decoder(width=40)
    with pytest.raises(ValueError, match="words is 'random'"):
        decoder(words="random")
    with pytest.raises(ValueError, match="rank is 0"):
        decoder(rank=0)
