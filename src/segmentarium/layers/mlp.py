"""The feed-forward network of a transformer block."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn


class MLP(nn.Module):
    """Linear, activation, linear, over the last dimension (1706.03762, section 3.3)."""

    def __init__(
        self,
        channels: int,
        hidden: int,
        out_channels: int | None = None,
        *,
        act: Callable[[], nn.Module] = nn.GELU,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.act = act()
        self.fc2 = nn.Linear(hidden, out_channels or channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(…, channels) -> (…, out_channels), `channels` unless given"""
        return self.dropout(self.fc2(self.dropout(self.act(self.fc1(x)))))
