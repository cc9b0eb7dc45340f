"""Homographies drawn as SuperPoint's training draws them, and what they do to points and to the edges of a picture.

A quadrilateral inside the picture is what the warped picture shows: a centred patch of it, tilted, scaled, shifted and turned,
in this order (DeTone et al., https://arxiv.org/abs/1712.07629, section 5; amounts: the MIT code by Pautrat and Sarlin).
"""

from __future__ import annotations

import math

import cv2
import numpy as np

SCALES, ANGLES = 5, 25  # tried of each draw
CORNERS = np.array([[0, 0], [0, 1], [1, 1], [1, 0]], np.float64)


def sample_homography(
    rng: np.random.Generator,
    size: tuple[int, int],
    *,
    patch_ratio: float = 0.85,
    perspective: float = 0.2,
    scaling: float = 0.2,
    max_angle: float = math.pi / 2,
    overflow: float = 0.0,
    artefacts: bool = True,
) -> np.ndarray:
    """(3, 3) float64, from pixels (x, y, 1) of a picture to those of its warped picture; both of `size` (height, width).

    patch_ratio   share of each side that the patch has before it is changed
    perspective   greatest shift of its corners, in sides of the picture; normal, cut at two deviations
    scaling       its factor is 1 ± this, distributed likewise
    max_angle     it is turned by one of 25 even steps up to this, either way; radians
    overflow      it may be shifted beyond the picture's edges by so much, in sides
    artefacts     it may leave the picture, so that the warped one is black there; else draws that leave it are dropped
    """
    margin = (1 - patch_ratio) / 2
    patch = margin + patch_ratio * CORNERS
    if perspective:
        vertical, left, right = _cut_normal(rng, perspective if artefacts else min(perspective, margin), 3)
        patch = patch + np.array([[left, vertical], [left, -vertical], [right, vertical], [right, -vertical]])
    if scaling:
        centre, factors = patch.mean(0), np.append(1.0, 1 + _cut_normal(rng, scaling, SCALES))
        patch = _picked(rng, (patch - centre) * factors[:, None, None] + centre, artefacts)
    low, high = patch.min(0), 1 - patch.max(0)
    if artefacts:
        low, high = low + overflow, high + overflow
    patch = patch - low + (low + high) * rng.random(2)
    if max_angle:
        centre, angles = patch.mean(0), np.append(0.0, np.linspace(-max_angle, max_angle, ANGLES))
        turns = np.stack((np.cos(angles), -np.sin(angles), np.sin(angles), np.cos(angles)), 1).reshape(-1, 2, 2)
        patch = _picked(rng, (patch - centre) @ turns + centre, artefacts)
    sides = np.array(size[::-1], np.float64)
    return cv2.getPerspectiveTransform((patch * sides).astype(np.float32), (CORNERS * sides).astype(np.float32))


def _cut_normal(rng: np.random.Generator, most: float, count: int) -> np.ndarray:
    """Normal numbers of deviation most / 2, drawn again where they exceed `most`."""
    drawn = rng.standard_normal(count)
    while (beyond := np.abs(drawn) > 2).any():
        drawn[beyond] = rng.standard_normal(int(beyond.sum()))
    return drawn * (most / 2)


def _picked(rng: np.random.Generator, patches: np.ndarray, artefacts: bool) -> np.ndarray:
    """One of the patches (N, 4, 2); the first is the unchanged one, which is only there in case no other lies inside."""
    if artefacts:
        return patches[rng.integers(1, len(patches))]
    inside = np.flatnonzero(((patches >= 0) & (patches <= 1)).all((1, 2)))
    return patches[rng.choice(inside) if len(inside) else 0]


def warp_points(points: np.ndarray, homography: np.ndarray) -> np.ndarray:
    """(N, 2) x, y -> where the homography takes them, (N, 2) float64; those that it takes to infinity, or behind the camera,
    become infinite."""
    warped = points @ homography[:, :2].T + homography[:, 2]
    depth = warped[:, 2:] * (np.sign(homography[2, 2]) or 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(depth > 0, warped[:, :2] / warped[:, 2:], np.inf)


def inside(points: np.ndarray, size: tuple[int, int], edge: float = 0.5) -> np.ndarray:
    """(N, 2) x, y -> (N,) bool: in a picture of `size` (height, width).

    edge   how far before its centre a pixel begins: 0.5, as it does; 0, as in HPatches' protocol
    """
    return np.logical_and(points >= -edge, points < np.array(size[::-1]) - edge).all(axis=1).reshape(-1)


def valid_mask(
    homography: np.ndarray, size: tuple[int, int], margin: int = 0, source: tuple[int, int] | None = None
) -> np.ndarray:
    """(H, W) uint8: 1 where the warped picture shows the picture, and not within `margin` pixels of where that ends.

    size     (height, width) of the warped picture
    source   of the picture; None: the same
    """
    known = np.ones(source or size, np.uint8)
    mask = cv2.warpPerspective(known, homography, size[::-1], flags=cv2.INTER_NEAREST)
    if margin:
        mask = cv2.erode(mask, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * margin, 2 * margin)))
    return mask
