"""Laying a person over a background, in whole numbers."""

from __future__ import annotations

import numpy as np


def composite(image: np.ndarray, alpha: np.ndarray, background: np.ndarray | tuple[int, ...]) -> np.ndarray:
    """`alpha / 255 * image + (1 - alpha / 255) * background`, rounded exactly, (H, W, C) uint8.

    image       (H, W, C) uint8: the person's colours, decontaminated for a clean edge (`Matte.rows`)
    alpha       (H, W) uint8
    background  (H, W, C) uint8, or one colour of C values
    """
    behind = np.asarray(background, np.uint8)
    if alpha.shape != image.shape[:2] or behind.shape not in (image.shape, image.shape[2:]):
        raise ValueError(
            f"image {image.shape}, alpha {alpha.shape} and background {behind.shape}; "
            "give (H, W, C), (H, W) and (H, W, C) or C values"
        )
    share = alpha.astype(np.uint16)[..., None]
    total = image * share
    total += behind * (255 - share)
    total += 128
    total += total >> 8  # with the shift below: division by 255, rounded, for all sums up to 255 * 255
    total >>= 8
    return total.astype(np.uint8)


def blend_plane(person: np.ndarray, share: np.ndarray, out: np.ndarray) -> None:
    """One plane of a video frame, in place and to within one level: out + share / 128 (person - out).

    person, out  (h, w) uint8
    share        (h, w) int16, 0..128: 7 bits are what fits a product with a difference into 16
    """
    difference = np.subtract(person, out, dtype=np.int16)
    difference *= share
    difference >>= 7
    np.add(out, difference, out=out, casting="unsafe")
