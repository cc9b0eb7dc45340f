"""Where each pixel of a frame was in the frame before: dense Lucas-Kanade flow, coarse to fine (Bouguet's pyramid)."""

from __future__ import annotations

import torch
from torch import Tensor

from segmentarium.inference.guided import box
from segmentarium.inference.matte import centres

SMALLEST = 12  # pixels of the shorter side at the coarsest level
RADIUS = 3
DAMPING = 1e-4  # variance of the gradient below which a window moves with its surroundings


def flow(before: Tensor, now: Tensor) -> Tensor:
    """(2, h, w) float32, pixels in x and y: `warp(before, flow)` is like `now`.  Both (h, w) float32 in 0..1."""
    pyramid = [(before, now)]
    while min(pyramid[-1][0].shape) >= 2 * SMALLEST and len(pyramid) < 5:
        stacked = torch.stack(pyramid[-1])[None]
        smaller = torch.nn.functional.avg_pool2d(stacked, 2)[0]
        pyramid.append((smaller[0], smaller[1]))
    found = torch.zeros(2, *pyramid[-1][0].shape)
    for level, (old, new) in enumerate(reversed(pyramid)):
        if level:
            found = torch.nn.functional.interpolate(found[None], tuple(new.shape), mode="bilinear")[0] * 2
        found = _step(old, new, found)
    return found


def _step(before: Tensor, now: Tensor, found: Tensor) -> Tensor:
    """One iteration of least squares in each window."""
    warped = warp(before[None], found)[0]
    mean = (warped + now) / 2
    across = torch.nn.functional.pad(mean[None], (1, 1, 0, 0), mode="replicate")[0]
    down = torch.nn.functional.pad(mean[None], (0, 0, 1, 1), mode="replicate")[0]
    dx, dy = (across[:, 2:] - across[:, :-2]) / 2, (down[2:] - down[:-2]) / 2
    change = now - warped
    xx, xy, yy, xt, yt = box(torch.stack((dx * dx, dx * dy, dy * dy, dx * change, dy * change)), RADIUS)
    xx, yy = xx + DAMPING, yy + DAMPING
    determinant = (xx * yy - xy * xy).clamp_(min=DAMPING**2)
    step = torch.stack((yy * xt - xy * yt, xx * yt - xy * xt)) / determinant
    # one level sees no further than its window
    return found + step.clamp_(-RADIUS, RADIUS)


def warp(planes: Tensor, displacement: Tensor) -> Tensor:
    """(C, h, w) taken at x + displacement, bilinear; beyond the border its nearest pixel."""
    height, width = planes.shape[-2:]
    across, down = torch.from_numpy(centres(width)), torch.from_numpy(centres(height))[:, None]
    grid = torch.empty(height, width, 2)
    torch.add(across, displacement[0], alpha=2 / width, out=grid[..., 0])
    torch.add(down, displacement[1], alpha=2 / height, out=grid[..., 1])
    return torch.nn.functional.grid_sample(planes[None], grid[None], padding_mode="border", align_corners=False)[0]
