"""Sigmoid focal loss of a map's layers seen from above (as BEVFusion's map head: gamma 2, no alpha), where the map is known."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MapLayers(nn.Module):
    """Logits (B, K, h, w) against a raster (B, C, H, W), brought to their size by averaging -> the mean over known cells.

    wanted   which K of the raster's channels, whose values are shares, 0 to 1
    known    the channel that says where the map is known; None: everywhere
    """

    def __init__(self, wanted: Sequence[int], known: int | None = None, gamma: float = 2.0) -> None:
        super().__init__()
        self.wanted, self.known, self.gamma = list(wanted), known, gamma

    def forward(self, logits: Tensor, raster: Tensor) -> Tensor:
        with torch.autocast(logits.device.type, enabled=False):
            logits, raster = logits.float(), raster.float()
            size = logits.shape[-2:]
            target = F.interpolate(raster[:, self.wanted], size, mode="bilinear", antialias=True, align_corners=False)
            target = target.clamp(0, 1)
            if self.known is None:
                counts = torch.ones_like(target[:, :1])
            else:
                counts = F.interpolate(raster[:, self.known, None], size, mode="nearest-exact")
            entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
            # how far from the target: of 0 and 1 what focal loss calls 1 - p
            wrong = (logits.sigmoid() - target).abs().pow(self.gamma)
            weight = counts.expand_as(entropy)
            return (wrong * entropy * weight).sum() / weight.sum().clamp(min=1)
