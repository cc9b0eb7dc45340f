"""Mean squared error of heat maps, one a joint, against small Gaussians at the joints (Tompson et al., 1406.2984).

Target, weights and mean are those of the HRNet authors' pose code: the Gaussian's peak is 1 and stands on a cell, its window is
cut at three sigma, a joint that is not labelled or lies outside has weight 0, and the mean counts its cells all the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def joint_heatmaps(
    joints: Tensor, size: Sequence[int], *, stride: float = 4, sigma: float = 2.0
) -> tuple[Tensor, Tensor]:
    """Where the joints are, as maps.

    joints   (..., J, 3): x and y in pixels of the image, and visibility in 0..1 (0: not labelled)
    size     (h, w) of the maps, whose cells are `stride` pixels wide
    sigma    of the Gaussian, in cells

    -> target (..., J, h, w), 0 everywhere for a visibility of 0.5 or less; weight (..., J): the visibility, 0 for a joint whose
    window lies outside
    """
    height, width = size
    centre = (joints[..., :2] / stride + 0.5).trunc()
    reach = int(3 * sigma)
    limit = centre.new_tensor((width, height))
    outside = ((centre - reach >= limit) | (centre + reach + 1 < 0)).any(-1)
    weight = joints[..., 2].masked_fill(outside, 0)
    x = torch.arange(width, device=joints.device) - centre[..., 0, None]  # (..., J, w)
    y = torch.arange(height, device=joints.device) - centre[..., 1, None]
    inside = (x.abs() <= reach)[..., None, :] & (y.abs() <= reach)[..., :, None]
    drawn = inside & (weight > 0.5)[..., None, None]
    peak = torch.exp(-(x.square()[..., None, :] + y.square()[..., :, None]) / (2 * sigma**2))
    return peak * drawn, weight


def weighted_mse(heatmaps: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Half the mean, over every cell of every map, of the squared error times the squared weight (B, J): a float32 scalar."""
    with torch.autocast(heatmaps.device.type, enabled=False):
        return ((heatmaps.float() - target.float()) * weight.float()[..., None, None]).square().mean() / 2


class JointsMSE(nn.Module):
    """Heat maps (B, J, h, w) against joints (B, J, 3), as `joint_heatmaps` draws them.

    stride   pixels of the image to a cell
    sigma    of the Gaussians, in cells
    """

    def __init__(self, stride: float = 4, sigma: float = 2.0) -> None:
        super().__init__()
        self.stride, self.sigma = stride, sigma

    def forward(self, heatmaps: Tensor, joints: Tensor) -> Tensor:
        if heatmaps.ndim != 4 or joints.shape != (*heatmaps.shape[:2], 3):
            raise ValueError(
                f"heat maps have shape {tuple(heatmaps.shape)} and joints {tuple(joints.shape)}; give (B, J, h, w), and "
                "(B, J, 3): x, y in pixels and visibility"
            )
        target, weight = joint_heatmaps(joints.float(), heatmaps.shape[-2:], stride=self.stride, sigma=self.sigma)
        return weighted_mse(heatmaps, target, weight)

    def extra_repr(self) -> str:
        return f"stride={self.stride}, sigma={self.sigma}"
