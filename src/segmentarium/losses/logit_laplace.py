"""How likely a picture is, where values lie strictly between two bounds (DALL-E, 2102.12092, appendix A.3)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

EDGE = 1e-4  # how near to 0 and 1 a value counts: there its logit has no bound


class LogitLaplace(nn.Module):
    """Minus the logarithm of the density of values x in (0, 1) whose logit is distributed by Laplace:

    exp(-|logit(x) - μ| / b) / (2 b x (1 - x))
    """

    def forward(self, stats: Tensor, values: Tensor) -> Tensor:
        """stats (B, 2C, H, W): μ of each of the C channels, then ln b; values (B, C, H, W) -> the mean, a float32 scalar"""
        if stats.shape[1] != 2 * values.shape[1] or stats.shape[2:] != values.shape[2:]:
            raise ValueError(
                f"the values have shape {tuple(values.shape)}, their distributions {tuple(stats.shape)}; give two for each"
            )
        with torch.autocast(stats.device.type, enabled=False):
            x = values.float().clamp(EDGE, 1 - EDGE)
            centre, log_scale = stats.float().chunk(2, 1)
            distance = (x.logit() - centre).abs() * torch.exp(-log_scale)
            return (distance + math.log(2) + log_scale + x.log() + torch.log1p(-x)).mean()
