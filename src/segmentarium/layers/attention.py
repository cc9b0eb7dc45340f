"""Multi-head attention through PyTorch's fused kernels."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int, bias: Tensor | None = None) -> Tensor:
    """(B, N, C), and keys and values (B, M, C) -> (B, N, C): softmax(q kᵀ / √(C / heads)) v in each head (1706.03762, 3.2).

    bias   added before the softmax, or where it is bool True where a key may be seen; (N, M), or broadcast to
           (B, heads, N, M)
    """
    query, key, value = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias).transpose(1, 2).flatten(2)


class Attention(nn.Module):
    """Self-attention over (B, N, C) tokens: one stacked projection to queries, keys and values, and one after the heads.

    qkv_bias   whether the stacked projection has a bias
    """

    def __init__(self, channels: int, heads: int, *, qkv_bias: bool = True) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"{channels} channels cannot be shared by {heads} heads; give a number that divides them")
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels, bias=qkv_bias)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """bias as `attend` takes it: relative positions, a window's mask"""
        query, key, value = self.qkv(x).chunk(3, -1)
        return self.proj(attend(query, key, value, self.heads, bias))

    def of_some(self, some: Tensor, x: Tensor) -> Tensor:
        """The same for some of the tokens alone, (B, M, C) of (B, N, C): they ask, all answer -> (B, M, C)"""
        rows, offsets = self.qkv.weight, self.qkv.bias
        parts = [rows.shape[1], 2 * rows.shape[1]]
        ask, answer = rows.split(parts)
        ask_offset, answer_offset = (None, None) if offsets is None else offsets.split(parts)
        key, value = F.linear(x, answer, answer_offset).chunk(2, -1)
        return self.proj(attend(F.linear(some, ask, ask_offset), key, value, self.heads))
