"""External attention: two small learned memories take the place of keys and values (Guo et al., 2105.02358).

Attention's cost grows with the number of places instead of its square, and the memories, which all pictures share, hold what
the data set has in common.

The public code lets both memories start as one: M_v = M_kᵀ, the same numbers in the same storage, which part when the network
is moved to a GPU.  Here they start with the same numbers (`tie`) and are two tensors from the beginning, on every device.
They are ordinary weights: nothing but gradients changes them, in training and in evaluation alike.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.layers.conv import ConvNormAct
from segmentarium.layers.norm import channels_first, channels_last


def normalise_twice(scores: Tensor, places: int, units: int) -> Tensor:
    """Affinities between places and memory units -> weights: a softmax over the places, and then, at each place, a share of
    their sum over the units.  `places` and `units` are dimensions.

    What is added to all places of a unit drops out, such as the bias of a layer that gives the scores.
    """
    weights = scores.softmax(places, dtype=torch.promote_types(scores.dtype, torch.float32))
    return (weights / (1e-9 + weights.sum(units, keepdim=True))).to(scores.dtype)


def tie(value: nn.Linear, key: nn.Linear) -> None:
    """Both memories start with the same numbers, M_v = M_kᵀ."""
    value.weight = nn.Parameter(key.weight.detach().T.clone(memory_format=torch.contiguous_format))


def compose(second: nn.Linear, first: nn.Linear) -> nn.Linear:
    """One layer for second(first(x))."""
    bias = second.bias
    if first.bias is not None:
        bias = second.weight @ first.bias + (0 if bias is None else bias)
    return linear(second.weight @ first.weight, bias)


def linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A layer of these numbers."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device=weight.device, dtype=weight.dtype)
    layer.weight.copy_(weight)
    if bias is not None:
        layer.bias.copy_(bias)
    return layer


class ExternalAttention(nn.Module):
    """The block of the segmentation network, on a map: 1×1 layer, both memories, 1×1 layer with a norm, shortcut, ReLU
    (algorithm 1).

    units   of the memories: 64 as published
    """

    query: nn.Module
    project: nn.Module

    def __init__(self, channels: int, units: int = 64) -> None:
        super().__init__()
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, units, bias=False)
        self.value = nn.Linear(units, channels, bias=False)
        self.project = ConvNormAct(channels, channels, 1, act=None)
        for layer in (self.query, self.key, self.project.conv):
            nn.init.normal_(layer.weight, std=math.sqrt(2 / channels))
        nn.init.zeros_(self.query.bias)
        tie(self.value, self.key)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape"""
        tokens = channels_last(x).flatten(1, 2)
        weights = normalise_twice(self.key(self.query(tokens)), 1, 2)  # (B, HW, units)
        y = channels_first(self.value(weights).unflatten(1, x.shape[-2:]))
        return F.relu(self.project(y) + x)

    @torch.no_grad()
    def reparameterize(self) -> None:
        """Takes the 1×1 layers into the memories, a quarter of the work or less at 512 channels."""
        query, project = self.query, self.project
        if not isinstance(query, nn.Linear) or not isinstance(project, ConvNormAct):
            return
        norm = project.norm
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        factor = norm.weight * (norm.running_var + norm.eps).rsqrt()
        weight = factor[:, None] * (project.conv.weight.flatten(1) @ self.value.weight)
        self.value = linear(weight, norm.bias - factor * norm.running_mean)
        self.key = linear(self.key.weight @ query.weight, None)  # the bias drops out
        self.query = self.project = nn.Identity()


class MultiHeadExternalAttention(nn.Module):
    """External attention in heads, over (B, N, C) tokens: all heads share the same two memories (algorithm 2).

    heads   as a transformer of that width has; `widen` times as many are used, of as many channels each
    units   of the memories, shared by the heads
    """

    key: nn.Module
    value: nn.Module

    def __init__(self, channels: int, heads: int, *, widen: int = 4, units: int = 64) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"{channels} channels cannot be shared by {heads} heads; give a number that divides them")
        self.heads = heads * widen
        self.query = nn.Linear(channels, widen * channels)
        self.key = nn.Linear(channels // heads, units)
        self.value = nn.Linear(units, channels // heads)
        self.proj = nn.Linear(widen * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        query = self.query(x).unflatten(-1, (self.heads, -1))  # (B, N, heads, C / heads)
        weights = normalise_twice(self.key(query), 1, 3)  # (B, N, heads, units)
        return self.proj(self.value(weights).flatten(2))

    @torch.no_grad()
    def reparameterize(self) -> None:
        """Takes the memories into the layers around them, head by head, where that is less work."""
        key, value = self.key, self.value
        if not isinstance(key, nn.Linear) or not isinstance(value, nn.Linear):
            return
        units, width = key.weight.shape
        channels = self.proj.out_features
        if channels * units > width * (channels + units):
            return
        queries = self.query.weight.unflatten(0, (self.heads, width))
        projections = self.proj.weight.unflatten(1, (self.heads, width))
        bias = self.proj.bias + self.proj.weight @ value.bias.repeat(self.heads)
        self.query = linear((key.weight @ queries).flatten(0, 1), None)  # the bias drops out
        self.proj = linear((projections @ value.weight).flatten(1), bias)
        self.key = self.value = nn.Identity()
