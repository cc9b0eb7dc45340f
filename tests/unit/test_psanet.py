"""PSANet: who asks whom, place by place; chunks, masks of other sizes than the map's; what is compact takes one size."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from segmentarium.registry import create_model
from segmentarium.semantic import psanet
from segmentarium.semantic.psanet import PointwiseAttention, PSADecoder
from tests.parity.comparison import exercised, randomise, relative_error


def branch(mask_size: tuple[int, int], **arguments: Any) -> Any:
    return randomise(exercised(PointwiseAttention(8, 6, mask_size, **arguments)))


def naive(made: PointwiseAttention, x: Tensor) -> Tensor:
    """By the paper's definition: all pairs of places in a loop, each with the score that its step has in the mask."""
    x = made.reduce(x)
    mask = made.mask(made.hidden(x))  # (B, mask, H, W)
    (tall, wide), (height, width) = made.mask_size, x.shape[2:]
    scores = torch.zeros(len(x), height, width, height, width)  # of who predicts, for whom
    for h in range(height):
        for w in range(width):
            for h2 in range(height):
                for w2 in range(width):
                    i, j = h2 - h + (tall - 1) // 2, w2 - w + (wide - 1) // 2
                    if 0 <= i < tall and 0 <= j < wide:
                        scores[:, h, w, h2, w2] = mask[:, i * wide + j, h, w]
    scores = scores.flatten(3).flatten(1, 2)
    scores = scores.transpose(1, 2) if made.distribute else scores
    weights = scores.softmax(2) if made.softmax else scores / (tall * wide)
    return (weights @ x.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, (height, width))


@pytest.mark.parametrize("mask_size", [(7, 9), (3, 5), (11, 13), (3, 13), (6, 4)])
@pytest.mark.parametrize("distribute", [False, True])
def test_every_pair_has_the_score_of_its_step(
    distribute: bool, mask_size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = branch(mask_size, distribute=distribute)
    x = torch.randn(2, 8, 4, 5)
    with torch.no_grad():
        expected = naive(made, x)
        assert relative_error(made(x, (4, 5), 1), expected) < 1e-5
    assert relative_error(made(x, (4, 5), 1).detach(), expected) < 1e-5
    monkeypatch.setattr(psanet, "SCORES", 2 * 3 * 5 * 4 * 9)  # three rows, and one
    with torch.no_grad():
        assert relative_error(made(x, (4, 5), 1), expected) < 1e-5


@pytest.mark.parametrize("distribute", [False, True])
def test_gradients_are_the_same_in_chunks(distribute: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    made = branch((7, 9), distribute=distribute)
    x = torch.randn(2, 8, 4, 5)
    slopes = []
    for call in (lambda: naive(made, x), lambda: made(x, (4, 5), 1)):
        made.zero_grad()
        call().square().sum().backward()
        slopes.append([p.grad.clone() for p in made.parameters()])
        monkeypatch.setattr(psanet, "SCORES", 1)
    for ours, theirs in zip(slopes[1], slopes[0], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_a_sum_by_the_paper_s_formula() -> None:
    made = branch((7, 9), softmax=False)
    x = torch.randn(1, 8, 4, 5)
    assert relative_error(made(x, (4, 5), 1), naive(made, x)) < 1e-5


@torch.no_grad()
def test_collect_asks_by_its_own_map_and_distribute_by_the_others() -> None:
    """The map of one place is made to be all for its right neighbour."""
    for distribute in (False, True):
        made = branch((5, 7), distribute=distribute)
        made.hidden = torch.nn.Identity()
        made.reduce = torch.nn.Conv2d(8, 6, 1, bias=False)
        made.reduce.weight.copy_(torch.eye(6, 8)[:, :, None, None])
        made.mask.weight.zero_()
        made.mask.weight[2 * 7 + 4, 0] = 50  # the step (0, 1)
        x = torch.zeros(1, 8, 3, 4)
        x[0, 0, 1, 1] = 1  # the place that speaks
        x[0, 1] = torch.arange(12.0).view(3, 4)
        seen = made(x, (3, 4), 1)[0, 1]
        mean = torch.full((3, 4), 5.5)  # of those that say nothing, and hear nothing
        if distribute:
            mean[1, 2] = 5.0  # place (1, 1) gave all to its right neighbour
        else:
            mean[1, 1] = 6.0  # place (1, 1) took all from it
        torch.testing.assert_close(seen, mean)


@torch.no_grad()
def test_the_compact_mask_counts_by_absolute_places() -> None:
    for distribute in (False, True):
        made = branch((4, 5), compact=True, distribute=distribute)
        x = torch.randn(1, 8, 4, 5)
        reduced = made.reduce(x)
        scores = made.mask(made.hidden(reduced)).flatten(2)[0]  # (for whom, who)
        weights = scores.softmax(1).T if distribute else scores.softmax(0)
        assert relative_error(made(x, (4, 5), 1)[0].flatten(1), reduced[0].flatten(1) @ weights) < 1e-5
        with pytest.raises(ValueError, match=r"the map is 5×5 and the compact mask 4×5: .*sliding windows"):
            made(torch.randn(1, 8, 5, 5), (5, 5), 1)


@torch.no_grad()
def test_mmsegmentation_s_map_shrinks_by_whether_its_sides_are_even() -> None:
    decoder: Any = PSADecoder(channels=(8,), strides=(8,), num_classes=3, mask_size=(9, 9), form="mmseg").eval()
    seen: list[tuple[int, ...]] = []
    decoder.attention["collect"].hidden.register_forward_pre_hook(
        lambda _, given: seen.append(tuple(given[0].shape[2:]))
    )
    for size in ((9, 13), (9, 12), (8, 12)):
        decoder([torch.randn(1, 8, *size)])
    assert seen == [(5, 7), (4, 6), (4, 6)]


def test_what_it_cannot_be_is_answered() -> None:
    told: dict[str, Any] = {"channels": (8,), "strides": (8,), "num_classes": 3}
    for arguments, message in (
        ({"direction": "up"}, "direction is 'up'; give one of 'collect', 'distribute', 'both'"),
        ({"form": "theirs"}, "form is 'theirs'; give one of 'authors', 'mmseg'"),
        ({"mask_size": (0, 5)}, "give \\(height, width\\) and a factor, 1 or more"),
        ({"shrink": 0}, "give \\(height, width\\) and a factor, 1 or more"),
    ):
        with pytest.raises(ValueError, match=message):
            PSADecoder(**told, **arguments)


def test_published_parameters() -> None:
    with torch.device("meta"):
        model = create_model("psanet_resnet50", num_classes=19)
    assert sum(p.numel() for p in model.decoder.parameters()) == 33_246_739
