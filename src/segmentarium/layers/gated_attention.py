"""Attention between the places of a map, added to it by a learned factor that starts at 0 (DANet, CCNet)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segmentarium.layers.external_attention import linear
from segmentarium.layers.norm import channels_first, channels_last


class GatedAttention(nn.Module):
    """x + γ · what each place sees of the others.  γ starts at 0, so that at first the block changes nothing.

    A subclass says in `look` which places see each other.  Queries are not scaled by their size, as in both papers' code.

    inner   channels of queries and keys; None: an eighth
    """

    query: nn.Module
    key: nn.Module
    value: nn.Module
    gamma: nn.Parameter | None

    def __init__(self, channels: int, inner: int | None = None) -> None:
        super().__init__()
        inner = inner or max(1, channels // 8)
        self.query = nn.Linear(channels, inner)
        self.key = nn.Linear(channels, inner)
        self.value = nn.Linear(channels, channels)
        self.gamma = nn.Parameter(torch.zeros(1))
        self.widths = (inner, inner, channels)
        self.joined: nn.Linear | None = None  # all three layers, and γ, after `reparameterize`

    def look(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """(B, H, W, inner), twice, and (B, H, W, C) -> (B, H, W, C)"""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape"""
        places = channels_last(x).contiguous()  # no copy in channels-last memory
        if self.joined is not None:
            return x + channels_first(self.look(*self.joined(places).split(self.widths, -1)))
        assert self.gamma is not None
        return x + channels_first(self.gamma * self.look(self.query(places), self.key(places), self.value(places)))

    @torch.no_grad()
    def reparameterize(self) -> None:
        """One layer for all three, γ taken into the values.  The keys' bias is the same for all that a query compares and drops
        out of the softmax."""
        layers = [layer for layer in (self.query, self.key, self.value) if isinstance(layer, nn.Linear)]
        if len(layers) < 3 or self.gamma is None:
            return
        query, key, value = layers
        weight = torch.cat([query.weight, key.weight, self.gamma * value.weight])
        self.joined = linear(weight, torch.cat([query.bias, torch.zeros_like(key.bias), self.gamma * value.bias]))
        self.query = self.key = self.value = nn.Identity()
        self.gamma = None
