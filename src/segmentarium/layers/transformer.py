"""The pre-norm transformer block, and the factor for each channel that residual branches may carry."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from segmentarium.layers.attention import Attention
from segmentarium.layers.drop_path import DropPath


class LayerScale(nn.Module):
    """A learned factor for each channel (the last dimension) of a residual branch, at first `start` (2103.17239, section 2)."""

    def __init__(self, channels: int, start: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((channels,), start))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma

    @torch.no_grad()
    def fold_into(self, linear: nn.Linear) -> nn.Identity:
        """Multiplies the layer whose output it scales by itself, in place; what then stands in its stead."""
        linear.weight.mul_(self.gamma[:, None])
        if linear.bias is not None:
            linear.bias.mul_(self.gamma)
        return nn.Identity()


class TransformerBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), over (B, N, C) tokens (2010.11929, equations 2 and 3).

    attention    tokens -> tokens, its last layer called `proj`, such as `layers.attention.Attention`
    mlp          tokens -> tokens, its last layer called `fc2`, such as `layers.mlp.MLP`
    drop_path    stochastic depth of both branches
    layer_scale  at which the factors of both branches start; None: they have none
    """

    def __init__(
        self,
        channels: int,
        attention: nn.Module,
        mlp: nn.Module,
        *,
        drop_path: float = 0.0,
        layer_scale: float | None = None,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=eps)
        self.attention = attention
        self.scale1 = nn.Identity() if layer_scale is None else LayerScale(channels, layer_scale)
        self.norm2 = nn.LayerNorm(channels, eps=eps)
        self.mlp = mlp
        self.scale2 = nn.Identity() if layer_scale is None else LayerScale(channels, layer_scale)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, *context: Tensor | None) -> Tensor:
        """context: what the attention takes beside the tokens, such as a bias of relative positions"""
        x = x + self.drop_path(self.scale1(self.attention(self.norm1(x), *context)))
        return x + self.drop_path(self.scale2(self.mlp(self.norm2(x))))

    def shrink(self, x: Tensor, pick: Callable[[Tensor], Tensor]) -> Tensor:
        """The same for some of the tokens alone, (B, N, C) -> (B, M, C): those that `pick` takes ask all (2210.05844, section
        3.3).  Its attention must be `layers.attention.Attention`.

        pick   (B, N, C) -> (B, M, C): whole rows of what it is given
        """
        assert isinstance(self.attention, Attention)
        normed = self.norm1(x)
        x = pick(x) + self.drop_path(self.scale1(self.attention.of_some(pick(normed), normed)))
        return x + self.drop_path(self.scale2(self.mlp(self.norm2(x))))

    def reparameterize(self) -> None:
        """Folds the factors into the layers before them."""
        if isinstance(self.scale1, LayerScale) and isinstance(self.scale2, LayerScale):
            self.scale1 = self.scale1.fold_into(self.attention.proj)  # type: ignore[arg-type]
            self.scale2 = self.scale2.fold_into(self.mlp.fc2)  # type: ignore[arg-type]
