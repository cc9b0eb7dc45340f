"""Channel shuffle: what separate groups have found is dealt out to all groups (ShuffleNet, 1707.01083, figure 1)."""

from __future__ import annotations

import torch
from torch import Tensor

from segmentarium.layers.norm import channels_first, channels_last


def _channels_stand_last(x: Tensor) -> bool:
    """Whether a position's channels are neighbours in memory.  A shuffle that ignored it would give back a map in the other
    order, and the next convolution would have to turn it round.  Exported graphs are in PyTorch's plain order."""
    return not torch.compiler.is_exporting() and x.stride(1) == 1


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """(B, C, H, W) -> the same shape: the first channel of every group, then the second of every group, …

    groups   divides C.  With C / groups in its place the shuffle goes backwards.
    """
    if _channels_stand_last(x):
        return channels_first(channels_last(x).unflatten(-1, (groups, -1)).transpose(-2, -1).flatten(-2))
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


def interleave(a: Tensor, b: Tensor) -> Tensor:
    """Two (B, C, H, W) -> (B, 2C, H, W): a0 b0 a1 b1 …, which is `channel_shuffle` of both, written once."""
    if _channels_stand_last(a):
        return channels_first(torch.stack((channels_last(a), channels_last(b)), -1).flatten(-2))
    return torch.stack((a, b), 2).flatten(1, 2)
