"""Features of one stride, a plain transformer's, to a pyramid (ViTDet and mmsegmentation's Feature2Pyramid)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class PyramidNeck(nn.Module):
    """Four features of one stride -> strides of a quarter, a half, once and twice that: 4, 8, 16, 32 for patches of 16.

    Fewer features than four: the last is used again.  `channels` and `strides` are those of what comes out.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        if len(set(strides)) != 1 or strides[0] % 4:
            raise ValueError(
                f"the backbone has features of strides {tuple(strides)}; the pyramid neck is for plain transformers, whose "
                "features all have one stride, a multiple of 4"
            )
        self.picked = [min(i, len(channels) - 1) for i in range(4)]
        widths = [channels[i] for i in self.picked]
        self.channels = tuple(widths)
        self.strides = (strides[0] // 4, strides[0] // 2, strides[0], strides[0] * 2)
        self.to_quarter = nn.Sequential(
            nn.ConvTranspose2d(widths[0], widths[0], 2, 2),
            nn.BatchNorm2d(widths[0]),
            nn.GELU(),
            nn.ConvTranspose2d(widths[0], widths[0], 2, 2),
        )
        self.to_half = nn.ConvTranspose2d(widths[1], widths[1], 2, 2)
        self.to_twice = nn.MaxPool2d(2, 2, ceil_mode=True)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """[(B, C, h, w), …] -> [(B, C, 4h, 4w), (B, C, 2h, 2w), (B, C, h, w), (B, C, h/2, w/2)]"""
        fine, half, same, coarse = (features[i] for i in self.picked)
        return [self.to_quarter(fine), self.to_half(half), same, self.to_twice(coarse)]
