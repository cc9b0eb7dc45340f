"""Transformer decoder layers: queries that look at each other and at the tokens of an image."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.layers.attention import Attention, attend


class CrossAttention(nn.Module):
    """(B, Q, C) queries and (B, N, C) memory -> (B, Q, C), through PyTorch's fused kernels."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"{channels} channels cannot be shared by {heads} heads; give a number that divides them")
        self.heads = heads
        self.q = nn.Linear(channels, channels)
        self.kv = nn.Linear(channels, 2 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, queries: Tensor, memory: Tensor, bias: Tensor | None = None) -> Tensor:
        """bias as `attend` takes it: bool, True where a token of the memory may be seen"""
        key, value = self.kv(memory).chunk(2, -1)
        return self.proj(attend(self.q(queries), key, value, self.heads, bias))

    def with_scores(self, queries: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """-> the same, and what goes into the softmax, (B, Q, N), its mean over the heads.

        That mean is one product over all channels, so that no tensor of heads × Q × N is made.
        """
        query = self.q(queries)
        key, value = self.kv(memory).chunk(2, -1)
        scale = (query.shape[-1] // self.heads) ** -0.5 / self.heads
        return self.proj(attend(query, key, value, self.heads)), (query * scale) @ key.mT


class QueryDecoderLayer(nn.Module):
    """Self-attention, attention to the memory, a feed-forward network, each followed by its norm (1706.03762, section 3.1).

    dropout   behind each of the three, and within the feed-forward network
    """

    def __init__(self, channels: int, heads: int, *, expansion: int = 4, dropout: float = 0.1) -> None:
        super().__init__()
        self.self_attention = Attention(channels, heads)
        self.cross_attention = CrossAttention(channels, heads)
        self.fc1 = nn.Linear(channels, expansion * channels)
        self.fc2 = nn.Linear(expansion * channels, channels)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(channels) for _ in range(3))
        self.dropout = nn.Dropout(dropout)

    def _ask(self, x: Tensor) -> Tensor:
        return self.norm1(x + self.dropout(self.self_attention(x)))

    def _answer(self, x: Tensor, heard: Tensor) -> Tensor:
        x = self.norm2(x + self.dropout(heard))
        return self.norm3(x + self.dropout(self.fc2(self.dropout(F.relu(self.fc1(x))))))

    def forward(self, x: Tensor, memory: Tensor, bias: Tensor | None = None) -> Tensor:
        """(B, Q, C), (B, N, C) -> (B, Q, C); bias: of the memory, as `attend` takes it"""
        x = self._ask(x)
        return self._answer(x, self.cross_attention(x, memory, bias))

    def with_scores(self, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """-> the same, and the scores (B, Q, N) of its attention to the memory"""
        x = self._ask(x)
        heard, scores = self.cross_attention.with_scores(x, memory)
        return self._answer(x, heard), scores
