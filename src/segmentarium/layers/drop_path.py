"""Stochastic depth."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DropPath(nn.Module):
    """Drops a residual branch for a whole sample with probability `rate` in training (Huang et al., 1603.09382).

    What stays is divided by 1 - rate, so that the mean is kept; in evaluation the branch passes unchanged.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        if not 0.0 <= rate < 1.0:
            raise ValueError(f"the drop path rate is {rate}; give a probability of 0 or more and less than 1")
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        keep = torch.rand(x.shape[0], *(1,) * (x.ndim - 1), device=x.device) >= self.rate
        return x * (keep.to(x.dtype) / (1.0 - self.rate))

    def extra_repr(self) -> str:
        return f"{self.rate:.3f}"


def drop_path_rates(highest: float, depths: tuple[int, ...]) -> list[list[float]]:
    """The usual schedule: from 0 at the first block to `highest` at the last one, in equal steps, by stage."""
    last = max(sum(depths) - 1, 1)
    starts = [sum(depths[:stage]) for stage in range(len(depths))]
    return [
        [highest * (start + block) / last for block in range(depth)]
        for start, depth in zip(starts, depths, strict=True)
    ]
