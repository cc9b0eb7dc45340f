"""The guided filter (He, Sun, Tang: Guided Image Filtering, ECCV 2010), which makes a rough mask follow a picture's edges.

In each small window the mask is fitted as a linear function of the picture's colours; the picture under that function is
the refined mask.  The functions vary slowly, so they are computed on a small picture and applied to the large one, as in
He and Sun, Fast Guided Filter, arXiv 1505.00996 (2015).
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

LEAST_RADIUS = 2  # pixels


def box(planes: Tensor, radius: int) -> Tensor:
    """Mean over windows of (2 radius + 1)² pixels, (C, h, w) -> (C, h, w) float32; windows are cut off at the border."""
    sums = _running(_running(planes, radius, 1), radius, 2)
    return sums.mul_(_shares(planes.shape[1], planes.shape[2], radius))


def _running(planes: Tensor, radius: int, axis: int) -> Tensor:
    """Sums over windows of 2 radius + 1 along one axis, from sums over 1, 2, 4, … pixels."""
    length, window = planes.shape[axis], 2 * radius + 1
    blocks = torch.nn.functional.pad(planes, (radius, radius, 0, 0) if axis == 2 else (0, 0, radius, radius))
    size = 1  # blocks[i] sums this many pixels from i on
    result, done = blocks.narrow(axis, 0, length).clone(), 1
    while 2 * size <= window:
        rest = blocks.shape[axis] - size
        blocks = blocks.narrow(axis, 0, rest) + blocks.narrow(axis, size, rest)
        size *= 2
        if window & size:
            result += blocks.narrow(axis, done, length)
            done += size
    return result


@lru_cache(maxsize=16)
def _shares(height: int, width: int, radius: int) -> Tensor:
    """(h, w): 1 / the number of pixels in each window."""
    lengths = []
    for length in (height, width):
        position = torch.arange(length)
        lengths.append((position + radius + 1).clamp_(max=length) - (position - radius).clamp_(min=0))
    return 1 / lengths[0].outer(lengths[1]).to(torch.float32)


def smaller(planes: Tensor, factor: int) -> Tensor:
    """(C, h, w) -> (C, ceil(h / factor), ceil(w / factor)), each pixel a mean."""
    size = (-(-planes.shape[1] // factor), -(-planes.shape[2] // factor))
    mode = "bilinear" if factor == 2 else "area"  # of two by two pixels bilinear is the mean, and four times as fast
    return torch.nn.functional.interpolate(planes[None], size, mode=mode)[0]


def coefficients(guide: Tensor, target: Tensor, radius: int, epsilon: float) -> Tensor:
    """The smoothed linear functions (C + 1, h, w): `(result[:C] * guide).sum(0) + result[C]` is the filtered target.

    guide    (C, h, w) float32 of 1 or 3 channels in 0..1
    target   (h, w) float32
    epsilon  variance of the guide, in units of its range squared, below which a window counts as flat and gives its mean

    Windows of a wide radius are counted on a smaller copy, where their radius is still at least `LEAST_RADIUS`.
    """
    channels = guide.shape[0]
    if channels not in (1, 3) or guide.shape[1:] != target.shape:
        raise ValueError(
            f"guide {tuple(guide.shape)} and target {tuple(target.shape)}; give (1 or 3, h, w) and (h, w) of the same size"
        )
    height, width = target.shape
    shrink = min(radius // LEAST_RADIUS, height // 2, width // 2)
    if shrink > 1:
        both = smaller(torch.cat((guide, target[None])), shrink)
        found = coefficients(both[:-1], both[-1], round(radius / shrink), epsilon)
        return torch.nn.functional.interpolate(found[None], (height, width), mode="bilinear")[0]
    planes = torch.cat((target[None], guide, guide * target, _products(guide)))
    means = box(planes, radius)
    mean, mean_guide = means[0], means[1 : 1 + channels]
    covariance = means[1 + channels : 1 + 2 * channels] - mean_guide * mean
    variance = means[1 + 2 * channels :] - _products(mean_guide)
    if channels == 1:
        slope = covariance / (variance + epsilon)
    else:
        slope = _solve(variance, covariance, epsilon)
    offset = mean - (slope * mean_guide).sum(0)
    return box(torch.cat((slope, offset[None])), radius)


def _products(planes: Tensor) -> Tensor:
    """Each pair of channels once: (1, h, w) -> (1, h, w), (3, h, w) -> (6, h, w) in the order rr, rg, rb, gg, gb, bb."""
    if len(planes) == 1:
        return planes.square()
    return torch.cat((planes[:1] * planes, planes[1:2] * planes[1:], planes[2:].square()))


def _solve(variance: Tensor, covariance: Tensor, epsilon: float) -> Tensor:
    """(V + epsilon) x = c in each pixel, V symmetric 3 x 3 given as its 6 entries (6, h, w), by Cramer's rule."""
    rr, rg, rb, gg, gb, bb = variance
    rr, gg, bb = rr + epsilon, gg + epsilon, bb + epsilon
    irr, irg, irb = gg * bb - gb * gb, gb * rb - rg * bb, rg * gb - gg * rb
    igg, igb, ibb = rr * bb - rb * rb, rb * rg - rr * gb, rr * gg - rg * rg
    determinant = (rr * irr + rg * irg + rb * irb).clamp_(min=epsilon**3)  # rounding must not turn it negative
    red, green, blue = covariance
    return torch.stack(
        (
            irr * red + irg * green + irb * blue,
            irg * red + igg * green + igb * blue,
            irb * red + igb * green + ibb * blue,
        )
    ).div_(determinant)


def apply(functions: Tensor, guide: Tensor) -> Tensor:
    """The functions (C + 1, …) at the colours (C, …) -> (…)."""
    return (functions[:-1] * guide).sum(0).add_(functions[-1])
