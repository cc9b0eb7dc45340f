"""Multi-head attention through PyTorch's fused kernels."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

SCORES = 2**21  # that `attend_bounded` holds at a time: 8 MB in float32


def attend(
    query: Tensor, key: Tensor, value: Tensor, heads: int, bias: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """(B, N, C), and keys and values (B, M, C) -> (B, N, C): softmax(q kᵀ / √(C / heads)) v in each head (1706.03762, 3.2).

    bias   added before the softmax, or where it is bool True where a key may be seen; (N, M), or broadcast to
           (B, heads, N, M)
    dropout   share of the weights that is drawn to be 0
    """
    query, key, value = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    if bias is not None and bias.ndim == 3:
        bias = bias[None]  # PyTorch's fused kernel takes two dimensions or four; three go the long way
    summed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout)
    return summed.transpose(1, 2).flatten(2)


def attend_bounded(query: Tensor, key: Tensor, value: Tensor, scale: float = 1.0) -> Tensor:
    """(B, N, D), (B, M, D), (B, M, C) -> (B, N, C): softmax(scale q kᵀ) v in one head, without the N×M scores in memory.

    PyTorch's fused kernel does it; on the processor it wants D = C, and without that computes naively.  There the queries
    go in chunks of at most `SCORES` scores, whose gradients compute them again.
    """
    fused = query.device.type == "cuda" or query.shape[-1] == value.shape[-1]
    if not fused and not torch.compiler.is_compiling():  # a graph keeps its sizes open, and leaves this to its engine
        rows = max(1, SCORES // (key.shape[0] * key.shape[1]))
        if query.shape[1] > rows:
            return _Chunks.apply(query, key, value, scale, rows)  # type: ignore[return-value]
    return F.scaled_dot_product_attention(query[:, None], key[:, None], value[:, None], scale=scale)[:, 0]


class _Chunks(torch.autograd.Function):
    """Attention of `rows` queries at a time; the gradients compute the scores again instead of keeping them."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float, rows: int) -> Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.scale, ctx.rows = scale, rows
        return torch.cat([_weights(chunk, key, scale).to(value.dtype) @ value for chunk in query.split(rows, 1)], 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value = ctx.saved_tensors
        of_query, of_key, of_value = [], torch.zeros_like(key), torch.zeros_like(value)
        slopes = slope.to(value.dtype).split(ctx.rows, 1)
        for chunk, given in zip(query.split(ctx.rows, 1), slopes, strict=True):
            weights = _weights(chunk, key, ctx.scale)
            of_value += weights.to(value.dtype).transpose(1, 2) @ given
            inner = weights * (given @ value.transpose(1, 2))
            inner = ctx.scale * (inner - weights * inner.sum(2, keepdim=True)).to(key.dtype)
            of_query.append(inner @ key)
            of_key += inner.transpose(1, 2) @ chunk
        return torch.cat(of_query, 1), of_key, of_value, None, None


def _weights(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """softmax(scale q kᵀ) in float32 or better"""
    scores = scale * query @ key.transpose(1, 2)
    return scores.softmax(2, dtype=torch.promote_types(scores.dtype, torch.float32))


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


class MultiHeadAttention(nn.Module):
    """Attention of queries (B, N, C) over keys and values (B, M, C) that are given apart -> (B, N, C).

    dropout   of the weights, in training
    """

    def __init__(self, channels: int, heads: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"{channels} channels cannot be shared by {heads} heads; give a number that divides them")
        self.heads, self.dropout = heads, dropout
        self.query, self.key, self.value, self.proj = (nn.Linear(channels, channels) for _ in range(4))
        for layer in (self.query, self.key, self.value, self.proj):
            # the first three as parts of one layer of three times the outputs, which they are elsewhere
            nn.init.xavier_uniform_(layer.weight, gain=1.0 if layer is self.proj else 2**-0.5)
            nn.init.zeros_(layer.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, seen: Tensor | None = None) -> Tensor:
        """seen: True where a key may be seen, broadcast to (B, heads, N, M)"""
        query, key, value = self.query(query), self.key(key), self.value(value)
        return self.proj(attend(query, key, value, self.heads, seen, self.dropout if self.training else 0.0))
