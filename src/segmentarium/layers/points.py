"""Maps read at points between their pixels, and how unsure scores are."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def uncertainty(logits: Tensor) -> Tensor:
    """(B, K, …) -> (B, …), 0 at most: the second best score minus the best; of one class, minus the logit's size."""
    first, *others = logits.unbind(1)
    if not others:
        return -first.abs()
    best, second = torch.maximum(first, others[0]), torch.minimum(first, others[0])
    for score in others[1:]:  # whole maps at a time: many times faster than sorting the classes of each pixel
        second = torch.maximum(second, torch.minimum(best, score))
        best = torch.maximum(best, score)
    return second - best


def read_points(x: Tensor, points: Tensor, *, mode: str = "bilinear") -> Tensor:
    """(B, C, H, W) at points (B, N, 2), each (x, y) in [0, 1] from one edge of the map to the other -> (B, C, N).

    Bilinear between the centres of pixels, with zeros around the map, or the nearest pixel.
    """
    # positions need more bits than half precision has
    grid = 2.0 * points.float().unsqueeze(2) - 1.0
    read = F.grid_sample(x.float(), grid, mode=mode, padding_mode="zeros", align_corners=False)
    return read.squeeze(3).to(x.dtype)


def neighbours(x: Tensor, y: Tensor, height: Tensor | int, width: Tensor | int) -> tuple[Tensor, Tensor]:
    """Places x, y (…) in pixels, (0, 0) the centre of the first -> of the four pixels around each, (…, 2, 2) by row and column:
    their number in a map that is stored row by row, int32, and their share in what is read there.

    A pixel outside the map has a share of 0, as in `read_points`, and the number of one inside.

    height, width   of the map, or of each place's own map: tensors that fit the places
    """
    rows, of_rows = _along(y, torch.as_tensor(height, device=y.device))
    columns, of_columns = _along(x, torch.as_tensor(width, device=x.device))
    width = torch.as_tensor(width, device=x.device, dtype=torch.int32)[..., None, None]
    number = rows.to(torch.int32)[..., :, None] * width + columns.to(torch.int32)[..., None, :]
    return number, of_rows[..., :, None] * of_columns[..., None, :]


def _along(position: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """Of the two pixels beside each position on a line: their places, kept inside, and their shares."""
    first = position.detach().floor()
    share = position - first
    places = torch.stack((first, first + 1), -1)
    inside = torch.minimum(places.clamp(min=0), (size - 1).to(places.dtype)[..., None])
    return inside, torch.stack((1 - share, share), -1) * (inside == places)


def read_masks(masks: Tensor, points: Tensor) -> Tensor:
    """Masks (N, H, W), bool, at points (N, P, 2) or (1, P, 2), each (x, y) in [0, 1] from one edge to the other -> (N, P) in
    [0, 1]: what `read_points` reads of them, without a float for each pixel."""
    height, width = masks.shape[-2:]
    number, share = neighbours(points[..., 0] * width - 0.5, points[..., 1] * height - 0.5, height, width)
    number = number.long().flatten(1).expand(len(masks), -1)
    return (masks.flatten(1).gather(1, number).unflatten(1, share.shape[1:]) * share).sum((-1, -2))
