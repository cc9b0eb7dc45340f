"""Channels that look at different places (the diversity part of the Mutual-Channel loss, Chang et al., arXiv 2002.04264)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segmentarium.labels import IGNORE_INDEX
from segmentarium.losses.base import safe_divide


def most_seen(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H·W), float32: each channel is a distribution over the places, and a place has its largest share.

    Their sum is 1 where all channels look at one place, and C where each has a place of its own.
    """
    return x.flatten(2).softmax(2, dtype=torch.float32).amax(1)


class Diversity(nn.Module):
    """1 - h / C of each level, h the sum of `most_seen` and C its number of channels; the mean over levels and pictures.

    A picture without a label does not count.

    Args:
        channels: of each level.
        ignore_index: the label that is none.
    """

    def __init__(self, channels: Sequence[int], ignore_index: int = IGNORE_INDEX) -> None:
        super().__init__()
        self.channels = tuple(channels)
        self.ignore_index = ignore_index

    def forward(self, *given: Tensor) -> Tensor:
        """`most_seen` of each level (B, h·w), then labels (B, H, W) -> float32 scalar"""
        *levels, target = given
        if len(levels) != len(self.channels):
            raise ValueError(
                f"{len(levels)} levels are given, and channels of {len(self.channels)}; give as many of both"
            )
        labelled = (target != self.ignore_index).flatten(1).any(1).float()
        shares = [level.float().sum(1) / channels for level, channels in zip(levels, self.channels, strict=True)]
        return safe_divide(((1 - torch.stack(shares).mean(0)) * labelled).sum(), labelled.sum())

    def extra_repr(self) -> str:
        return f"channels={self.channels}, ignore_index={self.ignore_index}"
