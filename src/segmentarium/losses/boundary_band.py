"""A loss on the pixels around class boundaries alone (SINet, ExtremeC3Net: Park et al., arXiv 1911.09099, 1908.03093)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.labels import IGNORE_INDEX
from segmentarium.losses.base import PixelLoss


@torch.no_grad()
def boundary_band(target: Tensor, size: int, ignore_index: int = IGNORE_INDEX) -> Tensor:
    """Where a window of `size`×`size` pixels sees more than one label, bool (B, H, W).

    Of a binary mask that is its dilation minus its erosion by a square, the paper's band.  Ignored pixels are not in it
    and make no boundary; nor does the border of the image.
    """
    if size < 1 or size % 2 == 0:
        raise ValueError(f"size is {size}; give an odd number of pixels")
    labels = target.float().unsqueeze(1)
    void = (target == ignore_index).unsqueeze(1)
    edge, side = (size // 2,), (size, 1)

    def highest(x: Tensor) -> Tensor:
        # a square's maximum is that of its columns' maxima
        return F.max_pool2d(F.max_pool2d(x, side, 1, (*edge, 0)), side[::-1], 1, (0, *edge))

    spread = highest(labels.masked_fill(void, -torch.inf)) + highest((-labels).masked_fill(void, -torch.inf))
    return ((spread > 0) & ~void)[:, 0]


class OnBoundary(nn.Module):
    """`loss` of the pixels in the band around boundaries, all others ignored.

    loss   of logits (B, K, H, W) and labels (B, H, W)
    size   of the square window, odd: the band reaches size // 2 pixels to either side
    """

    def __init__(self, loss: PixelLoss, size: int) -> None:
        super().__init__()
        self.loss = loss
        self.size = size

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """A float32 scalar, as the loss gives it; 0 where there is no boundary."""
        band = boundary_band(target, self.size, self.loss.ignore_index)
        return self.loss(logits, target.masked_fill(~band, self.loss.ignore_index))

    def extra_repr(self) -> str:
        return f"size={self.size}"
