"""A loss at the network's own resolution: the labels come to the logits instead of the logits to the labels."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class AtOutputSize(nn.Module):
    """`loss` of logits as they are and labels brought to their size by nearest neighbour.

    So are trained heads at a fraction of the image's size whose papers scale the labels down (an encoder's own head,
    labels of a cascade's coarser branches).
    """

    native_size = True

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """logits (B, K, h, w), target (B, H, W) -> scalar"""
        if target.shape[-2:] != logits.shape[-2:]:
            # label maps may hold classes up to 254, which float32 holds exactly
            scaled = F.interpolate(target[:, None].float(), logits.shape[-2:], mode="nearest-exact")
            target = scaled[:, 0].to(target.dtype)
        return self.loss(logits, target)
