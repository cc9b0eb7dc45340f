"""An image, or a map, to tokens."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from segmentarium.layers.norm import channels_last


class PatchEmbedding(nn.Module):
    """One strided convolution, then a norm over the channels.

    patch   its kernel
    stride  None: the patches do not overlap (ViT, 2010.11929); smaller: they do, and are padded so that the size is
            divided by the stride and rounded up (SegFormer, 2105.15203, section 3.1)
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        patch: int,
        stride: int | None = None,
        *,
        norm: Callable[[int], nn.Module] | None = None,
        bias: bool = True,
    ) -> None:
        super().__init__()
        padding = 0 if stride is None else patch // 2
        self.proj = nn.Conv2d(in_channels, channels, patch, stride or patch, padding, bias=bias)
        self.norm = norm(channels) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, H / stride, W / stride, channels)"""
        return self.norm(channels_last(self.proj(x)))
