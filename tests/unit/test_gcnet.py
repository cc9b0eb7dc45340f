"""GCNet: a non-local block that asks the same of all pixels is the simplified one; it starts as nothing; inside a trunk."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segmentarium.backbones import create_backbone
from segmentarium.meta import on_meta
from segmentarium.registry import create_model, insert_block
from segmentarium.semantic.gcnet import GlobalContext
from tests.parity.comparison import exercised

X = torch.linspace(-3, 3, 2 * 16 * 5 * 7).view(2, 16, 5, 7).sin()


class NonLocal(nn.Module):
    """The embedded Gaussian form, pair by pair (figure 3a of the paper, which leaves the scale out)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query, self.key, self.value, self.project = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (layer(x).flatten(2).transpose(1, 2) for layer in (self.query, self.key, self.value))
        answer = (query @ key.transpose(1, 2)).softmax(2) @ value
        return x + self.project(answer.transpose(1, 2).unflatten(2, x.shape[2:]))


def simplified(whole: NonLocal, weights: Tensor | None) -> GlobalContext:
    """The block without its bottleneck: value and projection on the one context, the attention by `weights` of channels."""
    block: Any = GlobalContext(16, 1 / 4, "average" if weights is None else "attention")
    block.add = nn.Sequential(whole.value, whole.project)
    if weights is not None:
        block.attention.weight.copy_(weights[None, :, None, None])
    return block


@torch.no_grad()
def test_a_non_local_block_with_one_query_is_the_simplified_block() -> None:
    whole = NonLocal(16)
    whole.query.weight.zero_()  # what is left is the bias: all pixels ask the same
    assert whole.query.bias is not None
    weights = whole.key.weight.flatten(1).T @ whole.query.bias
    torch.testing.assert_close(simplified(whole, weights)(X), whole(X))
    whole.query.weight.normal_()
    assert not torch.allclose(simplified(whole, weights)(X), whole(X), atol=1e-2)


@torch.no_grad()
def test_a_non_local_block_with_equal_keys_is_the_one_that_averages() -> None:
    whole = NonLocal(16)
    whole.key.weight.zero_()
    torch.testing.assert_close(simplified(whole, None)(X), whole(X))


@torch.no_grad()
def test_every_pixel_gets_the_same_and_the_bias_of_the_attention_drops_out() -> None:
    block = exercised(GlobalContext(16, 1 / 2))
    added = block(X) - X
    assert (added - added[..., :1, :1]).abs().max() < 1e-5
    assert added.abs().max() > 0.1
    expected = block(X)
    block.attention.bias.add_(5)
    torch.testing.assert_close(block(X), expected)


@torch.no_grad()
def test_it_starts_as_the_identity_and_multiplies_first() -> None:
    assert torch.equal(GlobalContext(16, 1 / 4)(X), X)
    assert torch.equal(GlobalContext(16, 1 / 4, fusion=("multiply",))(X), X / 2)
    both = exercised(GlobalContext(16, 1 / 4, fusion=("add", "multiply")))
    context = both.context(X)
    expected = X * both.multiply(context).sigmoid() + both.add(context)
    torch.testing.assert_close(both(X), expected)


@torch.no_grad()
def test_in_all_bottlenecks_of_three_stages() -> None:
    """As in the authors' detectors: behind the last 1×1, before the shortcut joins; and it starts as the plain trunk."""
    backbone = create_backbone("resnet50", width=8).eval()
    image = torch.rand(1, 3, 64, 64)
    before, parameters = backbone(image), sum(p.numel() for p in backbone.parameters())
    names = [
        name for stage in (2, 3, 4) for name in insert_block(backbone, stage, "gcnet", at="every", after="conv3", ratio=1 / 4)
    ]  # fmt: skip
    assert len(names) == 4 + 6 + 3
    assert names[0] == "layer2.0.conv3"
    assert all(torch.equal(a, b) for a, b in zip(backbone(image), before, strict=True))
    added = sum(p.numel() for p in backbone.parameters()) - parameters
    sizes = [(64, 4), (128, 6), (256, 3)]
    assert added == sum(blocks * (c + 1 + 2 * c * c // 4 + c // 4 + c + 2 * c // 4) for c, blocks in sizes)


def test_what_it_cannot_be_is_answered() -> None:
    for arguments, message in (
        ({"channels": 16, "ratio": 1 / 16}, "leaves 1 of 16 channels; the norm between the layers needs 2"),
        ({"channels": 16, "ratio": 1, "pooling": "max"}, "give 'attention' or 'average'"),
        ({"channels": 16, "ratio": 1, "fusion": ("sum",)}, "give 'add', 'multiply' or both"),
        ({"channels": 16, "ratio": 1, "fusion": ()}, "give 'add', 'multiply' or both"),
    ):
        with pytest.raises(ValueError, match=message):
            GlobalContext(**arguments)


def test_the_block_stands_between_the_convolutions_of_an_fcn_head() -> None:
    with on_meta():
        model: Any = create_model("gcnet", num_classes=19)
    assert sum(p.numel() for p in model.decoder.parameters()) == 23_738_260
    assert [type(layer).__name__ for layer in model.decoder.convs] == ["ConvNormAct", "GlobalContext", "ConvNormAct"]
