"""Cut-outs: a picture with all but its foreground transparent, by a matte that follows its edges."""

from __future__ import annotations

import cv2
import numpy as np

from segmentarium.matting.finder import scaled
from segmentarium.matting.matte import GUIDE_SIDE, fit_matte
from segmentarium.matting.regions import decided

BAND = 128  # rows at a time
SURE = 0.02  # probability of the foreground below which a pixel is the background's
MASK_SIDE = 320  # longer side of the masks from which `cut_out` makes mattes: its passes are as wide as a portrait's


def cut_out(image: np.ndarray, mask: np.ndarray, own_alpha: np.ndarray | None = None) -> np.ndarray:
    """(H, W, 4) uint8: a picture (H, W, 3) uint8 with all but the foreground of a soft mask (H, W) uint8 transparent.

    The mask is refined to a matte, and soft pixels get the foreground's own colours.

    own_alpha  (H, W) uint8 of a picture that is partly transparent itself
    """
    size = height, width = image.shape[0], image.shape[1]
    result = np.empty((height, width, 4), np.uint8)
    coarse = [max(1, round(side * min(1.0, MASK_SIDE / max(size)))) for side in size]
    probability = scaled(mask[..., None], coarse)[..., 0] / np.float32(255)
    matte = fit_matte(guide_of(scaled(image, guide_size(size))), decided(without_holes(probability)), size)
    for top in range(0, height, BAND):
        alpha, own = matte.rows(image[top : top + BAND], top)
        alpha = still_erased(alpha, own_alpha, top)
        result[top : top + BAND] = transparent(own, alpha)
    return result


def without_holes(probability: np.ndarray) -> np.ndarray:
    """`probability` (h, w), 0..1, with 1 in holes in the foreground in which the network is nowhere `SURE` of the background.

    Such are things that a person holds; behind a bent arm the network is sure.
    """
    background = (probability < 0.5).view(np.uint8)
    count, labels = cv2.connectedComponents(background, connectivity=8)  # 0: the foreground
    region = labels.astype(np.intp)
    lowest = np.ones(count, np.float32)
    np.minimum.at(lowest, region.ravel(), probability.ravel())
    hole = lowest > SURE
    hole[np.concatenate(([0], region[0], region[-1], region[:, 0], region[:, -1]))] = False
    return np.where(hole[region], np.float32(1), probability)


def still_erased(alpha: np.ndarray, own_alpha: np.ndarray | None, top: int = 0, left: int = 0) -> np.ndarray:
    """`alpha` (h, w) of the part that begins at row `top` and column `left`, where what was erased in the picture stays so.

    own_alpha  (H, W) of the whole picture; None: nothing was erased
    """
    if own_alpha is None:
        return alpha
    height, width = alpha.shape
    return np.minimum(alpha, own_alpha[top : top + height, left : left + width])


def transparent(own: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Rows (n, W, 4) of the foreground's own colours (n, W, 3) and its alpha (n, W), all uint8."""
    rows = np.dstack((own, alpha))
    rows[alpha == 0] = 0  # what was behind is gone, not only hidden
    return rows


def guide_size(size: tuple[int, int]) -> tuple[int, int]:
    """(h, w) of the small copy of a picture of (H, W)."""
    factor = min(1.0, GUIDE_SIDE / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def guide_of(small: np.ndarray) -> np.ndarray:
    """(h, w, C) uint8 -> (C, h, w) float32, 0..1"""
    return np.multiply(small.transpose(2, 0, 1), np.float32(1 / 255), order="C")
