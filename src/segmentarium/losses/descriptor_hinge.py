"""SuperPoint's descriptor loss (1712.07629, equations 3 to 6): descriptors of cells that a homography brings together are drawn
to each other, all others apart, both up to a margin.

A cell of the image and one of its warp correspond where the warped centre of the first lies within `radius` pixels of the
centre of the second; a hinge pulls corresponding pairs' products up to 1, weighted by `positive_weight` since they are few, and
pushes all other pairs' down to 0.2; mean over all pairs.  Cells of the warp that show what the image did not are left out.

In rpautrat's code the products are first cut at 0 and normalised, over all cells of the warp and then over those of the image,
so that a descriptor is pulled to one cell only by leaving the others; its radius is 7.5, and its weights are others.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentarium.losses.base import safe_divide


class DescriptorHinge(nn.Module):
    """Descriptors (B, D, h, w) of pictures and of their warps, homographies (B, 3, 3) between pixels -> float32 scalar.

    positive_weight   of a corresponding pair
    positive_margin   a corresponding pair's product costs nothing from here on;  negative_margin: another pair's, up to here
    radius            pixels between centres, up to which they correspond
    normalised        products are cut at 0 and normalised over the cells of each picture
    cell              pixels of a cell's side
    """

    def __init__(
        self,
        positive_weight: float = 250.0,
        positive_margin: float = 1.0,
        negative_margin: float = 0.2,
        *,
        radius: float = 8.0,
        normalised: bool = False,
        cell: int = 8,
    ) -> None:
        super().__init__()
        self.positive_weight, self.positive_margin, self.negative_margin = (
            positive_weight,
            positive_margin,
            negative_margin,
        )
        self.radius, self.normalised, self.cell = radius, normalised, cell

    @classmethod
    def rpautrat(cls, positive_weight: float = 0.05) -> DescriptorHinge:
        """As in rpautrat/SuperPoint, whose weights were made with this one; it stands in the objective with weight 10,000."""
        return cls(positive_weight, radius=7.5, normalised=True)

    def forward(
        self, descriptors: Tensor, warped: Tensor, homography: Tensor, warped_valid: Tensor | None = None
    ) -> Tensor:
        """warped_valid   (B, h, w), 1 for cells of the warp that count; None: all"""
        batch, _, height, width = descriptors.shape
        if warped.shape != descriptors.shape or homography.shape != (batch, 3, 3):
            raise ValueError(
                f"descriptors have shape {tuple(descriptors.shape)}, the warps' {tuple(warped.shape)} and the homographies "
                f"{tuple(homography.shape)}; give (B, D, h, w) twice, and (B, 3, 3)"
            )
        with torch.autocast(descriptors.device.type, enabled=False):
            a, b = (F.normalize(x.float().flatten(2), dim=1) for x in (descriptors, warped))
            products = a.mT @ b  # (B, cells of the image, cells of the warp)
            if self.normalised:
                products = _unit(_unit(products.relu(), 2), 1)
            near = self.correspond(homography.float(), (height, width))
            pull = self.positive_weight * (self.positive_margin - products).relu()
            push = (products - self.negative_margin).relu()
            loss = torch.where(near, pull, push)
            if warped_valid is None:
                return loss.mean()
            counted = warped_valid.flatten(1).float()
            return safe_divide((loss * counted[:, None]).sum(), counted.sum() * height * width)

    @torch.no_grad()
    def correspond(self, homography: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, 3, 3), (h, w) -> (B, h · w, h · w) bool: whether a cell of the image and one of the warp show the same."""
        y, x = (torch.arange(side, device=homography.device) * self.cell + self.cell // 2 for side in size)
        centres = torch.cartesian_prod(y, x).flip(1).float()  # x, y
        moved = F.pad(centres, (0, 1), value=1.0) @ homography.mT
        moved = moved[..., :2] / moved[..., 2:]
        squared = (moved[:, :, None] - centres).square().sum(-1)  # cdist's short cuts lose digits
        return squared <= self.radius**2

    def extra_repr(self) -> str:
        return f"{self.positive_weight}, radius={self.radius}, normalised={self.normalised}"


def _unit(x: Tensor, dim: int) -> Tensor:
    """Of length 1 along `dim`; zeros stay."""
    return x * (x.square().sum(dim, keepdim=True) + 1e-12).rsqrt()
