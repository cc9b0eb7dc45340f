"""How far codes are from being all equally probable (DALL-E, 2102.12092, section 2.1)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class UniformKL(nn.Module):
    """`weight` times the Kullback-Leibler divergence of each place's distribution over V codes from the uniform one, in nats.

    weight   β of the paper, which a schedule may change
    values   of the picture for each code: the divergence counts in nats for a value, as the likelihood beside it does
    """

    def __init__(self, weight: float, values: int = 1) -> None:
        super().__init__()
        self.weight, self.values = weight, values

    def forward(self, logits: Tensor) -> Tensor:
        """(B, V, h, w) -> the mean over all places, a float32 scalar"""
        with torch.autocast(logits.device.type, enabled=False):
            log_share = logits.float().log_softmax(1)
            divergence = (log_share.exp() * log_share).sum(1).mean() + math.log(logits.shape[1])
            return self.weight / self.values * divergence

    def extra_repr(self) -> str:
        return f"weight={self.weight}, values={self.values}"
