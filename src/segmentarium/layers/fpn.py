"""Feature pyramid (Lin et al., FPN, arXiv 1612.03144): coarse features brought down to where the fine ones are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from segmentarium.layers.resize import resize


def top_down(maps: Sequence[Tensor], *, mode: Literal["nearest", "bilinear"] = "nearest") -> list[Tensor]:
    """[(B, C, h_i, w_i), …], finest first -> the same shapes: each with the sum of all coarser ones, brought to its size step
    by step (figure 3 of the paper).  mode: "nearest" in FPN, "bilinear" in UPerNet."""
    sums = [maps[-1]]
    for x in reversed(maps[:-1]):
        sums.append(x + resize(sums[-1], x.shape[-2:], mode=mode))
    return sums[::-1]


class FeaturePyramid(nn.Module):
    """A 1×1 convolution for each feature, top-down sums, a 3×3 convolution for each sum, all with a bias and nothing else.

    `channels` are those of what comes out, one for each feature: all of them `width`.
    """

    def __init__(self, channels: Sequence[int], width: int = 256) -> None:
        super().__init__()
        self.channels = (width,) * len(channels)
        self.laterals = nn.ModuleList(nn.Conv2d(inputs, width, 1) for inputs in channels)
        self.outputs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in channels)
        for conv in (*self.laterals, *self.outputs):
            assert isinstance(conv, nn.Conv2d)
            nn.init.xavier_uniform_(conv.weight)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """[(B, channels[i], h_i, w_i), …], finest first -> [(B, width, h_i, w_i), …]"""
        maps = top_down([lateral(x) for lateral, x in zip(self.laterals, features, strict=True)])
        return [output(x) for output, x in zip(self.outputs, maps, strict=True)]
