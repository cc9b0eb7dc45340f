"""Cut-outs: a picture with all but its foreground transparent, by a matte that follows its edges."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from segmentarium.inference.matte import GUIDE_SIDE, fit_matte
from segmentarium.inference.readers import ArrayRows
from segmentarium.inference.tta import scaled
from segmentarium.losses.connectivity import connected_components

BAND = 128  # rows at a time
SURE = 0.02  # chance of the foreground below which a pixel is the background's
MASK_SIDE = 320  # longer side of the masks from which `cut_out` makes mattes: its passes are as wide as a portrait's


def cut_out(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(H, W, 4) uint8: a picture (H, W, 3) uint8 with all but the foreground of a soft mask (H, W) uint8 transparent.

    The mask is refined to a matte, and soft pixels get the foreground's own colours.
    """
    size = height, width = image.shape[0], image.shape[1]
    result = np.empty((height, width, 4), np.uint8)
    with torch.inference_mode():
        guide = scaled(ArrayRows(image).rows(0, height), guide_size(size))[0].to(torch.float32) / 255
        coarse = [max(1, round(side * min(1.0, MASK_SIDE / max(size)))) for side in size]
        chance = scaled(torch.tensor(mask)[None, None].to(torch.float32) / 255, coarse)[0, 0]
        matte = fit_matte(guide, without_holes(chance), size)
        for top in range(0, height, BAND):
            alpha, own = matte.rows(image[top : top + BAND], top)
            result[top : top + BAND] = transparent(own, alpha)
    return result


def without_holes(chance: Tensor) -> Tensor:
    """`chance` (h, w), 0..1, with 1 in holes in the foreground in which the network is nowhere `SURE` of the background.

    Such are things that a person holds; behind a bent arm the network is sure.
    """
    background = chance < 0.5
    region = connected_components(background[None].long())[0]
    count = int(region.max()) + 1
    lowest = torch.ones(count).scatter_reduce_(0, region.flatten(), chance.flatten(), "amin")
    hole = (lowest < 0.5) & (lowest > SURE)
    hole[torch.cat((region[0], region[-1], region[:, 0], region[:, -1]))] = False
    return torch.where(hole[region], 1.0, chance)


def transparent(own: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Rows (n, W, 4) of the foreground's own colours (n, W, 3) and its alpha (n, W), all uint8."""
    rows = np.dstack((own, alpha))
    rows[alpha == 0] = 0  # what was behind is gone, not only hidden
    return rows


def guide_size(size: tuple[int, int]) -> tuple[int, int]:
    """(h, w) of the small copy of a picture of (H, W)."""
    factor = min(1.0, GUIDE_SIDE / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))
