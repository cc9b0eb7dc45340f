"""Multi-head attention through PyTorch's fused kernels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

SCORES = 2**21  # that `attend_bounded` holds at a time: 8 MB in float32


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int, bias: Tensor | None = None) -> Tensor:
    """(B, N, C), and keys and values (B, M, C) -> (B, N, C): softmax(q kᵀ / √(C / heads)) v in each head (1706.03762, 3.2).

    bias   added before the softmax, or where it is bool True where a key may be seen; (N, M), or broadcast to
           (B, heads, N, M)
    """
    query, key, value = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias).transpose(1, 2).flatten(2)


def attend_bounded(query: Tensor, key: Tensor, value: Tensor, scale: float = 1.0) -> Tensor:
    """(B, N, D), (B, M, D), (B, M, C) -> (B, N, C): softmax(scale q kᵀ) v in one head, without the N×M scores in memory.

    PyTorch's fused kernel does it; on the processor it wants D = C, and without that computes naively.  There the queries
    go in chunks of at most `SCORES` scores, whose gradients compute them again.
    """
    rows = max(1, SCORES // (key.shape[0] * key.shape[1]))
    fused = query.device.type == "cuda" or query.shape[-1] == value.shape[-1]
    if fused or torch.compiler.is_compiling() or query.shape[1] <= rows:
        stacked = (x[:, None] for x in (query, key, value))
        return F.scaled_dot_product_attention(*stacked, scale=scale)[:, 0]
    chunks = query.split(rows, 1)
    if torch.is_grad_enabled():
        return torch.cat([checkpoint(_attend, chunk, key, value, scale, use_reentrant=False) for chunk in chunks], 1)
    return torch.cat([_attend(chunk, key, value, scale) for chunk in chunks], 1)


def _attend(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    return (scale * query @ key.transpose(1, 2)).softmax(-1) @ value


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
