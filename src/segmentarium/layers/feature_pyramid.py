"""Feature pyramids: the top-down path of FPN (Lin et al., 1612.03144) and what Panoptic FPN (Kirillov et al., 1901.02446)
makes of it for a map of classes, as mmsegmentation builds both."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.layers.conv import ConvNormAct
from segmentarium.layers.init import init_convs
from segmentarium.layers.resize import resize


def first_of_quarter(strides: Sequence[int]) -> int:
    """Number of the finest feature that is no finer than 1/4; 0 where all are."""
    return next((i for i, stride in enumerate(strides) if stride >= 4), 0)


class FeaturePyramid(nn.Module):
    """[(B, channels[i], h_i, w_i), …], finest first -> the same sizes, each `width` channels.

    Every feature is projected, the coarser ones are repeated into the finer ones from the deepest on, and a 3×3 convolution
    smooths each sum.  No norms, no activations; biases.
    """

    def __init__(self, channels: Sequence[int], width: int = 256) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.outputs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in channels)
        init_convs(self, slope=1.0)  # nothing follows that would halve them

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        sums = [lateral(x) for lateral, x in zip(self.laterals, features, strict=True)]
        for i in range(len(sums) - 1, 0, -1):
            sums[i - 1] = sums[i - 1] + resize(sums[i], sums[i - 1].shape[-2:], mode="nearest")
        return [output(x) for output, x in zip(self.outputs, sums, strict=True)]


class PyramidSum(nn.Module):
    """[(B, channels, h_i, w_i), …], finest first -> (B, width, h_0, w_0): every level brought to the finest by 3×3
    convolutions, a doubling after each, and added up.

    A level as fine as the first has one convolution and is not enlarged.
    """

    def __init__(self, channels: int, strides: Sequence[int], width: int = 128) -> None:
        super().__init__()
        doublings = [(stride // strides[0]).bit_length() - 1 for stride in strides]
        self.doubled = [count > 0 for count in doublings]
        self.levels = nn.ModuleList(
            nn.ModuleList(ConvNormAct(width if i else channels, width) for i in range(max(1, count)))
            for count in doublings
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        total = None
        for doubled, convs, x in zip(self.doubled, self.levels, features, strict=True):
            for conv in convs:  # type: ignore[attr-defined]
                x = conv(x)
                if doubled:
                    x = F.interpolate(x, scale_factor=2.0, mode="bilinear")
            total = x if total is None else total + resize(x, total.shape[-2:])
        assert total is not None
        return total
