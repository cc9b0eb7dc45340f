"""The halves of a post-norm transformer layer, as DETR has them (Carion et al., 2005.12872, appendix A.3)."""

from __future__ import annotations

from torch import Tensor, nn

from segmentarium.layers.attention import MultiHeadAttention
from segmentarium.layers.mlp import MLP


class AttentionHalf(nn.Module):
    """norm(x + attention): over the same tokens, or over others."""

    def __init__(self, channels: int, heads: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(channels, heads, dropout=dropout)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(channels)

    def forward(
        self,
        x: Tensor,
        positions: Tensor,
        keys: Tensor | None = None,
        values: Tensor | None = None,
        seen: Tensor | None = None,
    ) -> Tensor:
        """x (B, N, C); positions, added to the queries, and to the keys where these are the same tokens; keys with their
        positions, and values (B, M, C), of other tokens; seen as in `MultiHeadAttention` -> (B, N, C)"""
        query = x + positions
        found = self.attention(query, query if keys is None else keys, x if values is None else values, seen)
        return self.norm(x + self.dropout(found))


class FeedForwardHalf(nn.Module):
    """norm(x + mlp(x)), with a ReLU."""

    def __init__(self, channels: int, hidden: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.mlp = MLP(channels, hidden, act=nn.ReLU, dropout=dropout)
        nn.init.xavier_uniform_(self.mlp.fc1.weight)
        nn.init.xavier_uniform_(self.mlp.fc2.weight)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.mlp(x))
