"""FPN's sums, and how semantic FPN brings each level to the finest."""

from __future__ import annotations

import torch

from segmentarium.layers.fpn import PyramidSum, top_down
from segmentarium.semantic.fpn import FPNDecoder


def test_a_level_is_the_sum_of_itself_and_all_coarser_ones() -> None:
    fine, middle, coarse = torch.randn(1, 2, 8, 12), torch.randn(1, 2, 4, 6), torch.randn(1, 2, 2, 3)
    first, second, third = top_down([fine, middle, coarse])

    def grown(x: torch.Tensor, times: int) -> torch.Tensor:
        return x.repeat_interleave(times, 2).repeat_interleave(times, 3)

    assert torch.equal(third, coarse)
    assert torch.equal(second, middle + grown(coarse, 2))
    assert torch.allclose(first, fine + grown(middle, 2) + grown(coarse, 4), atol=1e-6)


def test_convolutions_of_a_level_are_its_halvings() -> None:
    def convolutions(strides: tuple[int, ...]) -> list[int]:
        return [len(convs) for convs in PyramidSum(4, strides, 4).levels]

    assert convolutions((4, 8, 16, 32)) == [1, 1, 2, 3]
    assert convolutions((4, 8, 8, 8)) == [1, 1, 1, 1]
    assert convolutions((16, 16, 16, 16)) == [1, 1, 1, 1]


@torch.no_grad()
def test_every_level_reaches_the_logits_at_sizes_that_do_not_divide() -> None:
    decoder = FPNDecoder(
        channels=(4, 4, 4), strides=(4, 8, 16), num_classes=2, decoder_channels=8, pyramid_channels=8
    ).eval()
    features = [torch.randn(1, 4, 13, 17), torch.randn(1, 4, 7, 9), torch.randn(1, 4, 4, 5)]
    whole = decoder(features)
    assert whole.shape[-2:] == (13, 17)
    for i in range(3):
        without = [x if j != i else torch.zeros_like(x) for j, x in enumerate(features)]
        assert not torch.allclose(decoder(without), whole)
