"""External attention: two normalisations, memories that start alike and are two, and forms that fold."""

from __future__ import annotations

import torch

from segmentarium import create_model
from segmentarium.backbones.eamlp import TokenBlock, sinusoids
from segmentarium.layers.external_attention import (
    ExternalAttention,
    MultiHeadExternalAttention,
    normalise_twice,
)
from tests.parity.comparison import randomise


def test_units_share_out_each_place_after_places_shared_out_each_unit() -> None:
    scores = torch.randn(2, 5, 3)
    weights = normalise_twice(scores, 1, 2)
    assert torch.allclose(weights.sum(2), torch.ones(2, 5))
    softmax = scores.softmax(1)
    assert torch.allclose(weights, softmax / softmax.sum(2, keepdim=True), atol=1e-6)
    assert torch.allclose(normalise_twice(scores + torch.randn(1, 1, 3), 1, 2), weights, atol=1e-6)
    assert not torch.allclose(normalise_twice(scores + torch.randn(1, 5, 1), 1, 2), weights, atol=1e-2)
    assert normalise_twice(scores.bfloat16(), 1, 2).dtype == torch.bfloat16


def test_memories_start_alike_and_are_learnt_apart() -> None:
    block = ExternalAttention(8, units=4)
    for memory in (block, TokenBlock(12, 8, units=4), *create_model("eamlp_7", depth=1).backbone.token_blocks):
        key, value = memory.key.weight, memory.value.weight
        assert torch.equal(value, key.T)
        assert value.untyped_storage().data_ptr() != key.untyped_storage().data_ptr()
    block(torch.randn(2, 8, 3, 5)).square().sum().backward()
    with torch.no_grad():
        for parameter in (block.key.weight, block.value.weight):
            parameter -= 0.1 * parameter.grad
    assert not torch.allclose(block.value.weight, block.key.weight.T)


def test_it_sees_the_same_in_any_order_of_the_pixels() -> None:
    block = randomise(ExternalAttention(8))
    x = torch.randn(2, 8, 3, 5)
    mirrored = block(x.flip(-1)).flip(-1)
    assert torch.allclose(mirrored, block(x), atol=1e-6)
    other = x.clone()
    other[..., 0, 0] += 3  # one pixel is seen by all others
    assert (block(other) - block(x)).abs().amax(1)[..., 1:, 1:].min() > 0


@torch.no_grad()
def test_the_layers_around_the_memories_fold_into_them() -> None:
    block = randomise(ExternalAttention(16, units=4))
    block.query.bias.normal_()
    x = torch.randn(2, 16, 5, 6)
    expected, before = block(x), sum(p.numel() for p in block.parameters())
    block.reparameterize()
    assert torch.allclose(block(x), expected, atol=1e-5)
    assert sum(p.numel() for p in block.parameters()) < before / 4
    block.reparameterize()
    assert torch.allclose(block(x), expected, atol=1e-5)


@torch.no_grad()
def test_heads_fold_where_that_is_less_work() -> None:
    x = torch.randn(2, 5, 32)
    for units, folds in ((4, True), (64, False)):
        layer = MultiHeadExternalAttention(32, 2, units=units)
        for bias in (layer.query.bias, layer.key.bias, layer.value.bias):
            bias.normal_()
        expected = layer(x)
        layer.reparameterize()
        assert torch.allclose(layer(x), expected, atol=1e-5)
        assert isinstance(layer.key, torch.nn.Identity) == folds
    block = TokenBlock(12, 8).eval()
    tokens = torch.randn(2, 3, 4, 12)
    expected = block(tokens)
    block.reparameterize()
    assert torch.allclose(block(tokens), expected, atol=1e-6)


def test_sines_and_cosines_take_turns() -> None:
    table = sinusoids(9, 8)[0]
    assert torch.equal(table[0], torch.tensor([0.0, 1.0] * 4))
    assert torch.allclose(table[:, 0], torch.arange(9.0).sin())
    assert torch.allclose(table[:, 0::2].square() + table[:, 1::2].square(), torch.ones(9, 4))
    assert torch.allclose(table[:, 3], (torch.arange(9.0) / 10000 ** (2 / 8)).cos())


def test_rates_of_the_variant_are_not_forced_on_another_backbone() -> None:
    with torch.device("meta"):
        own = create_model("eanet_resnet50")
        assert [block.conv2.conv.dilation[0] for block in own.backbone.layer4] == [2, 8, 16]
        assert [block.conv2.conv.dilation[0] for block in own.backbone.layer3] == [1, 2, 2, 2, 2, 2]
        wider = create_model("eanet_resnet50", output_stride=16, backbone_arguments={"multigrid": (1, 4, 8)})
        assert [block.conv2.conv.dilation[0] for block in wider.backbone.layer4] == [1, 4, 8]
        assert create_model("eanet", backbone="mobilenet_v2").backbone.strides[-1] == 8
