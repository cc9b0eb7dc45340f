"""Features of one stride, a plain transformer's, to a pyramid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.layers.conv import ConvNormAct
from segmentarium.layers.resize import resize


class Neck(nn.Module):
    """Four features of one stride -> strides of a quarter, a half, once and twice that: 4, 8, 16, 32 for patches of 16.

    Fewer features than four: the last is used again.  `channels` and `strides` are those of what comes out.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        if len(set(strides)) != 1 or strides[0] % 4:
            raise ValueError(
                f"the backbone has features of strides {tuple(strides)}; a neck is for plain transformers, whose "
                "features all have one stride, a multiple of 4"
            )
        self.picked = [min(i, len(channels) - 1) for i in range(4)]
        self.channels = tuple(channels[i] for i in self.picked)
        self.strides = (strides[0] // 4, strides[0] // 2, strides[0], strides[0] * 2)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """[(B, C, h, w), …] -> [(B, C, 4h, 4w), (B, C, 2h, 2w), (B, C, h, w), (B, C, h/2, w/2)]"""
        raise NotImplementedError


class PyramidNeck(Neck):
    """By transposed convolutions and a maximum (BEiT's, ViTDet's; mmsegmentation's Feature2Pyramid)."""

    def __init__(self, channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__(channels, strides)
        fine, half, *_ = self.channels
        self.to_quarter = nn.Sequential(
            nn.ConvTranspose2d(fine, fine, 2, 2),
            nn.BatchNorm2d(fine),
            nn.GELU(),
            nn.ConvTranspose2d(fine, fine, 2, 2),
        )
        self.to_half = nn.ConvTranspose2d(half, half, 2, 2)
        self.to_twice = nn.MaxPool2d(2, 2, ceil_mode=True)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        fine, half, same, coarse = (features[i] for i in self.picked)
        return [self.to_quarter(fine), self.to_half(half), same, self.to_twice(coarse)]


class ProjectedNeck(Neck):
    """By transposed convolutions and 1×1 ones, each with norm and ReLU; the last is widened and keeps its stride: 4, 8, 16 and
    16 for patches of 16 (LV-ViT's networks, 2104.10858).

    width   channels of the last
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], width: int = 2048) -> None:
        super().__init__(channels, strides)
        self.enlarge = nn.ModuleList()
        for inputs, factor in zip(self.channels, (4, 2), strict=False):
            up = nn.ConvTranspose2d(inputs, inputs, factor, factor, bias=False)
            self.enlarge.append(nn.Sequential(up, nn.BatchNorm2d(inputs), nn.ReLU(inplace=True)))
        self.channels = (*self.channels[:3], width)
        self.strides = (*self.strides[:3], self.strides[2])
        self.project = nn.ModuleList(
            ConvNormAct(channels[i], outputs, 1) for i, outputs in zip(self.picked, self.channels, strict=True)
        )

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """[(B, C, h, w), …] -> [(B, C, 4h, 4w), (B, C, 2h, 2w), (B, C, h, w), (B, width, h, w)]"""
        maps = [features[i] for i in self.picked]
        maps[:2] = [enlarge(x) for enlarge, x in zip(self.enlarge, maps, strict=False)]
        return [project(x) for project, x in zip(self.project, maps, strict=True)]


class MultiLevelNeck(Neck):
    """By bilinear interpolation between a 1×1 and a 3×3 convolution (mmsegmentation's, under its ViT and DeiT).

    Bilinear reduction by two is the mean of 2×2 places; the last row and column of odd sizes are left out, as theirs are.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__(channels, strides)
        width = channels[-1]
        self.laterals = nn.ModuleList(nn.Conv2d(inputs, width, 1) for inputs in self.channels)
        self.outputs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in self.channels)
        self.channels = (width,) * 4

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        fine, half, same, coarse = (lateral(features[i]) for lateral, i in zip(self.laterals, self.picked, strict=True))
        height, width = coarse.shape[-2:]
        single = not torch.compiler.is_exporting() and min(height, width) < 2  # a side of one place keeps it
        maps = [
            resize(fine, (4 * fine.shape[-2], 4 * fine.shape[-1])),
            resize(half, (2 * half.shape[-2], 2 * half.shape[-1])),
            same,
            F.avg_pool2d(coarse, 2, ceil_mode=single),
        ]
        return [output(x) for output, x in zip(self.outputs, maps, strict=True)]
