"""Classifiers by direction: what counts is the angle between a feature and a class's weights, not the length of either.

Frequent classes get longer weights, which alone makes them likelier.  J. Wang et al., "Seesaw Loss for Long-Tailed Instance
Segmentation", CVPR 2021, https://arxiv.org/abs/2008.10032, section 3.3; code: mmdetection's `NormedLinear`, `NormedConv2d`.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

EPSILON = 1e-6


def by_length(x: Tensor, power: float) -> Tensor:
    """x over its length along dimension 1, raised to `power`."""
    return x / (x.norm(dim=1, keepdim=True) ** power + EPSILON)


class CosineLinear(nn.Linear):
    """(N, in_features) -> (N, out_features): `temperature` times the cosine of the angles, plus a bias.

    Args:
        power: of the lengths; 1 normalises, less does it in part.
    """

    def __init__(
        self, in_features: int, out_features: int, temperature: float = 20.0, power: float = 1.0, bias: bool = True
    ) -> None:
        super().__init__(in_features, out_features, bias)
        self.temperature, self.power = temperature, power
        nn.init.normal_(self.weight, std=0.01)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.temperature * by_length(x, self.power), by_length(self.weight, self.power), self.bias)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, temperature={self.temperature}, power={self.power}"


class CosineConv1x1(nn.Conv2d):
    """(N, in_channels, H, W) -> (N, out_channels, H, W): the same at every place; of masks, one plane a class."""

    def __init__(
        self, in_channels: int, out_channels: int, temperature: float = 20.0, power: float = 1.0, bias: bool = True
    ) -> None:
        super().__init__(in_channels, out_channels, 1, bias=bias)
        self.temperature, self.power = temperature, power

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(self.temperature * by_length(x, self.power), by_length(self.weight, self.power), self.bias)
