"""Feature pyramids: FPN (Lin et al., arXiv 1612.03144), and the sum of its levels (Kirillov et al., Panoptic FPN, 1901.02446)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

from torch import Tensor, nn

from segmentarium.layers.conv import ConvNormAct
from segmentarium.layers.init import init_convs
from segmentarium.layers.resize import resize


def first_of_quarter(strides: Sequence[int]) -> int:
    """Number of the finest feature that is no finer than 1/4; 0 where all are."""
    return next((i for i, stride in enumerate(strides) if stride >= 4), 0)


def top_down(maps: Sequence[Tensor], *, mode: Literal["nearest", "bilinear"] = "nearest") -> list[Tensor]:
    """[(B, C, h_i, w_i), …], finest first -> the same shapes: each with the sum of all coarser ones, brought to its size step
    by step (figure 3 of FPN).  mode: "nearest" in FPN, "bilinear" in UPerNet."""
    sums = [maps[-1]]
    for x in reversed(maps[:-1]):
        sums.append(x + resize(sums[-1], x.shape[-2:], mode=mode))
    return sums[::-1]


class FeaturePyramid(nn.Module):
    """[(B, channels[i], h_i, w_i), …], finest first -> [(B, width, h_i, w_i), …]: a 1×1 convolution for each feature, top-down
    sums, a 3×3 convolution for each sum.  They have a bias and neither norm nor activation."""

    def __init__(self, channels: Sequence[int], width: int = 256) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(inputs, width, 1) for inputs in channels)
        self.outputs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in channels)
        init_convs(self, nonlinearity="leaky_relu", slope=1.0)  # nothing follows that would halve them

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        maps = top_down([lateral(x) for lateral, x in zip(self.laterals, features, strict=True)])
        return [output(x) for output, x in zip(self.outputs, maps, strict=True)]


class PyramidSum(nn.Module):
    """[(B, channels, h_i, w_i), …], finest first -> (B, width, h_0, w_0): every level goes through as many 3×3 convolutions as
    its stride has doublings over the finest one's, each with an upsampling by two behind it, and all are added up (Panoptic
    FPN, figure 3).  A level of the finest one's stride has one convolution and is not enlarged.

    groups   of the group norm behind each convolution; None: batch norm (mmsegmentation)
    """

    def __init__(self, channels: int, strides: Sequence[int], width: int = 128, groups: int | None = None) -> None:
        super().__init__()
        doublings = [(stride // strides[0]).bit_length() - 1 for stride in strides]
        norm = nn.BatchNorm2d if groups is None else partial(nn.GroupNorm, groups)
        self.enlarged = [count > 0 for count in doublings]
        self.levels = nn.ModuleList(
            nn.Sequential(*(ConvNormAct(width if i else channels, width, norm=norm) for i in range(max(count, 1))))
            for count in doublings
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        total = None
        for convs, enlarged, x in zip(self.levels, self.enlarged, features, strict=True):
            assert isinstance(convs, nn.Sequential)
            for conv in convs:
                x = conv(x)
                if enlarged:
                    x = resize(x, (2 * x.shape[-2], 2 * x.shape[-1]))
            total = x if total is None else total + resize(x, total.shape[-2:])
        assert total is not None
        return total
