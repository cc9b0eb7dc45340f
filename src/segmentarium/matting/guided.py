"""The guided filter (He, Sun, Tang: Guided Image Filtering, ECCV 2010), which makes a rough mask follow a picture's edges.

In each small window the mask is fitted as a linear function of the picture's colours; the picture under that function is
the refined mask.  The functions vary slowly, so they are computed on a small picture and applied to the large one, as in
He and Sun, Fast Guided Filter, arXiv 1505.00996 (2015).
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

LEAST_RADIUS = 2  # pixels


def box(planes: np.ndarray, radius: int) -> np.ndarray:
    """Mean over windows of (2 radius + 1)² pixels, (C, h, w) -> (C, h, w) float32; windows are cut off at the border."""
    window = (2 * radius + 1, 2 * radius + 1)
    sums = np.empty_like(planes)
    for plane, out in zip(planes, sums, strict=True):
        cv2.boxFilter(plane, -1, window, out, normalize=False, borderType=cv2.BORDER_CONSTANT)
    sums *= _shares(planes.shape[1], planes.shape[2], radius)
    return sums


@lru_cache(maxsize=16)
def _shares(height: int, width: int, radius: int) -> np.ndarray:
    """(h, w): 1 / the number of pixels in each window."""
    lengths = []
    for length in (height, width):
        position = np.arange(length)
        lengths.append(np.minimum(position + radius + 1, length) - np.maximum(position - radius, 0))
    return (1 / np.outer(*lengths)).astype(np.float32)


def smaller(planes: np.ndarray, factor: int) -> np.ndarray:
    """(C, h, w) -> (C, ceil(h / factor), ceil(w / factor)), each pixel a mean."""
    return _scaled(planes, (-(-planes.shape[1] // factor), -(-planes.shape[2] // factor)), cv2.INTER_AREA)


def larger(planes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(C, h, w) -> (C, H, W), bilinear."""
    return _scaled(planes, size, cv2.INTER_LINEAR)


def _scaled(planes: np.ndarray, size: tuple[int, int], method: int) -> np.ndarray:
    result = np.empty((len(planes), *size), np.float32)
    for plane, out in zip(planes, result, strict=True):
        cv2.resize(plane, (size[1], size[0]), out, interpolation=method)
    return result


def coefficients(guide: np.ndarray, target: np.ndarray, radius: int, epsilon: float) -> np.ndarray:
    """The smoothed linear functions (C + 1, h, w): `(result[:C] * guide).sum(0) + result[C]` is the filtered target.

    guide    (C, h, w) float32 of 1 or 3 channels in 0..1
    target   (h, w) float32
    epsilon  variance of the guide, in units of its range squared, below which a window counts as flat and gives its mean

    Windows of a wide radius are counted on a smaller copy, where their radius is still at least `LEAST_RADIUS`.
    """
    channels = len(guide)
    if channels not in (1, 3) or guide.shape[1:] != target.shape:
        raise ValueError(
            f"guide {guide.shape} and target {target.shape}; give (1 or 3, h, w) and (h, w) of the same size"
        )
    height, width = target.shape
    shrink = min(radius // LEAST_RADIUS, height // 2, width // 2)
    if shrink > 1:
        both = smaller(np.concatenate((guide, target[None])), shrink)
        return larger(coefficients(both[:-1], both[-1], round(radius / shrink), epsilon), (height, width))
    means = box(np.concatenate((target[None], guide, guide * target, _products(guide))), radius)
    mean, mean_guide = means[0], means[1 : 1 + channels]
    covariance = means[1 + channels : 1 + 2 * channels] - mean_guide * mean
    variance = means[1 + 2 * channels :] - _products(mean_guide)
    functions = np.empty((channels + 1, height, width), np.float32)
    slope = functions[:-1]
    if channels == 1:
        np.divide(covariance, variance + epsilon, out=slope)
    else:
        _solve(variance, covariance, epsilon, slope)
    np.subtract(mean, (slope * mean_guide).sum(0), out=functions[-1])
    return box(functions, radius)


def _products(planes: np.ndarray) -> np.ndarray:
    """Each pair of channels once: (1, h, w) -> (1, h, w), (3, h, w) -> (6, h, w) in the order rr, rg, rb, gg, gb, bb."""
    if len(planes) == 1:
        return planes * planes
    return np.concatenate((planes[:1] * planes, planes[1:2] * planes[1:], planes[2:] * planes[2:]))


def _solve(variance: np.ndarray, covariance: np.ndarray, epsilon: float, out: np.ndarray) -> None:
    """(V + epsilon) x = c in each pixel, V symmetric 3 x 3 given as its 6 entries (6, h, w), by Cramer's rule."""
    rr, rg, rb, gg, gb, bb = variance
    rr, gg, bb = rr + epsilon, gg + epsilon, bb + epsilon
    irr, irg, irb = gg * bb - gb * gb, gb * rb - rg * bb, rg * gb - gg * rb
    igg, igb, ibb = rr * bb - rb * rb, rb * rg - rr * gb, rr * gg - rg * rg
    determinant = np.maximum(rr * irr + rg * irg + rb * irb, epsilon**3)  # rounding must not turn it negative
    red, green, blue = covariance
    out[0] = irr * red + irg * green + irb * blue
    out[1] = irg * red + igg * green + igb * blue
    out[2] = irb * red + igb * green + ibb * blue
    out /= determinant


def apply(functions: np.ndarray, guide: np.ndarray) -> np.ndarray:
    """The functions (C + 1, …) at the colours (C, …) -> (…)."""
    result = functions[0] * guide[0]
    for slope, plane in zip(functions[1:-1], guide[1:], strict=True):
        result += slope * plane
    result += functions[-1]
    return result
