"""Non-local blocks: each form against its pairs written out; what stands in memory; how a block starts; what DNL takes apart."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from segmentarium.backbones import create_backbone
from segmentarium.layers import attention
from segmentarium.registry import create_model, insert_block
from segmentarium.semantic.dnlnet import DisentangledNonLocal
from segmentarium.semantic.non_local import FORMS, NonLocal, rectified_sums
from tests.parity.comparison import exercised, randomise, relative_error
from tests.unit.test_ann import Largest


def block(channels: int = 12, made: type[NonLocal] = NonLocal, **arguments: Any) -> Any:
    return randomise(exercised(made(channels, **arguments)))


def naive(made: Any, x: Tensor, keep: Any = None) -> Tensor:
    """Pair by pair; `keep` brings keys and values to fewer places."""
    keep = keep or (lambda y: y)
    places = x.permute(0, 2, 3, 1)
    query, key, value = (
        y.flatten(1, 2)
        for y in (
            places if made.query is None else made.query(places),
            keep(places if made.key is None else made.key(places)),
            keep(made.value(places)),
        )
    )
    if made.form == "concatenation":
        pairs = [
            [made.pair(torch.cat([query[:, i], key[:, j]], 1)).relu() for j in range(key.shape[1])]
            for i in range(query.shape[1])
        ]
        weights = torch.stack([torch.cat(row, 1) for row in pairs], 1) / key.shape[1]
    else:
        weights = query @ key.transpose(1, 2)
        weights = weights / key.shape[1] if made.form == "dot_product" else (made.scale * weights).softmax(2)
    return x + made.project((weights @ value).transpose(1, 2).unflatten(2, x.shape[2:]))


@torch.no_grad()
@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_that_of_its_pairs(form: str) -> None:
    made = block(form=form)
    x = torch.randn(2, 12, 5, 7)
    expected = naive(made, x)
    assert (expected - x).std() > 0.1
    assert relative_error(made(x) - x, expected - x) < 1e-4
    for _ in range(2):
        made.reparameterize()
        assert relative_error(made(x) - x, expected - x) < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("form", FORMS)
def test_sampled_keys_are_the_greatest_of_four(form: str) -> None:
    made = block(form=form, subsample=True)
    x = torch.randn(2, 12, 5, 8)

    def greatest(y: Tensor) -> Tensor:
        return torch.stack([y[:, i:4:2, j::2] for i in (0, 1) for j in (0, 1)]).amax(0)

    expected = naive(made, x, greatest)
    assert relative_error(made(x), expected) < 1e-4
    made.reparameterize()
    assert relative_error(made(x), expected) < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("form", FORMS)
def test_no_map_of_pairs_stands_in_memory(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "SCORES", 2**14)
    made = block(form=form)
    with Largest() as largest:
        made(torch.rand(1, 12, 32, 48))
    assert largest.numbers <= 2**15  # pairs would be 72 times as many


def test_gradients_of_the_concatenation_are_those_of_its_pairs() -> None:
    given = [torch.randn(2, 9).double(), torch.randn(2, 7).double(), torch.randn(2, 7, 3).double()]
    slopes = []
    for sums in (rectified_sums, lambda a, b, v: (a[:, :, None] + b[:, None]).relu() @ v):
        leaves = [x.clone().requires_grad_() for x in given]
        (sums(*leaves) ** 2).sum().backward()
        slopes.append([x.grad for x in leaves])
    for ours, theirs in zip(*slopes, strict=True):
        torch.testing.assert_close(ours, theirs)


@torch.no_grad()
@pytest.mark.parametrize("name", ["nonlocal", "dnlnet"])
def test_a_block_in_a_trunk_starts_as_the_identity_and_learns(name: str) -> None:
    backbone = create_backbone("resnet50", width=8).eval()
    image = torch.rand(1, 3, 64, 64)
    before = backbone(image)
    places = insert_block(backbone, 3, name, at=(-2,)) + insert_block(backbone, 2, name, at=(0, 2))
    assert places == ["layer3.4", "layer2.0", "layer2.2"]
    assert all(torch.equal(a, b) for a, b in zip(backbone(image), before, strict=True))
    with torch.enable_grad():
        backbone.train()(torch.rand(2, 3, 64, 64))[-1].square().sum().backward()
    factors = [
        p
        for key, p in backbone.named_parameters()
        if key.startswith("inserted.") and key.endswith("project.norm.weight")
    ]
    assert len(factors) == 3
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in factors)


@torch.no_grad()
def test_dnl_is_a_whitened_softmax_of_pairs_and_one_of_places() -> None:
    made = block(made=DisentangledNonLocal, temperature=0.5)
    x = torch.randn(2, 12, 5, 7)
    places = x.permute(0, 2, 3, 1).flatten(1, 2)
    query, key, value = made.query(places), made.key(places), made.value(places)
    scores = (query - query.mean(1, keepdim=True)) @ (key - key.mean(1, keepdim=True)).transpose(1, 2)
    expected = (scores / (6**0.5 * 0.5)).softmax(2) @ value + (made.unary(places).softmax(1) * value).sum(
        1, keepdim=True
    )
    assert relative_error(made.context(x.permute(0, 2, 3, 1)), expected) < 1e-5
    # what is the same for all places of queries and keys does not matter
    for parameter in (made.query.bias, made.key.bias, made.unary.bias):
        parameter.add_(3)
    assert relative_error(made.context(x.permute(0, 2, 3, 1)), expected) < 1e-4
    made.reparameterize()
    assert relative_error(made.context(x.permute(0, 2, 3, 1)), expected) < 1e-4


@torch.no_grad()
def test_the_plain_block_s_scores_are_dnl_s_two_terms_multiplied() -> None:
    query, key = torch.randn(1, 20, 6), torch.randn(1, 20, 6)
    mean = query.mean(1, keepdim=True)
    pairs = (query - mean) @ (key - key.mean(1, keepdim=True)).transpose(1, 2)
    single = mean @ key.transpose(1, 2)
    torch.testing.assert_close((pairs + single).softmax(2), (query @ key.transpose(1, 2)).softmax(2))


def test_what_it_cannot_be_is_answered() -> None:
    with pytest.raises(ValueError, match="form is 'softmax'; give one of 'gaussian', 'embedded_gaussian'"):
        NonLocal(8, "softmax")
    with pytest.raises(ValueError, match="reduction is 0; give how many times fewer"):
        NonLocal(8, reduction=0)
    with pytest.raises(ValueError, match="temperature is 0; give a positive one"):
        DisentangledNonLocal(8, temperature=0)


def test_published_parameters() -> None:
    with torch.device("meta"):
        model = create_model("nonlocal", num_classes=19)
    assert sum(p.numel() for p in model.decoder.parameters()) == 24_131_859
