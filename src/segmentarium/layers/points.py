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

    Bilinear between the centres of pixels, with zeros around the map, or the nearest pixel.  On the processor, where no gradient
    is wanted, all channels of a pixel are read at once if they lie so, in a sixth of the time.
    """
    if x.device.type == "cpu" and x.dtype == torch.float32 and mode == "bilinear" and not torch.compiler.is_compiling():
        learnt = torch.is_grad_enabled() and (x.requires_grad or points.requires_grad)
        lies = x.shape[1] >= 8 and x.is_contiguous(memory_format=torch.channels_last)
        if lies and points.shape[1] and not learnt:
            return _read_rows(x, points.float())
    # positions need more bits than half precision has
    grid = 2.0 * points.float().unsqueeze(2) - 1.0
    read = F.grid_sample(x.float(), grid, mode=mode, padding_mode="zeros", align_corners=False)
    return read.squeeze(3).to(x.dtype)


def _read_rows(x: Tensor, points: Tensor) -> Tensor:
    """What `read_points` reads, by `embedding_bag`: of each point four rows of channels, weighted and summed up."""
    batch, _, height, width = x.shape
    table = x.permute(0, 2, 3, 1).flatten(0, 2)
    column, row = (points * points.new_tensor((width, height)) - 0.5).unbind(-1)
    left, top = column.floor(), row.floor()
    columns, rows = torch.stack((left, left + 1, left, left + 1), -1), torch.stack((top, top, top + 1, top + 1), -1)
    weight = (1 - (columns - column[..., None]).abs()) * (1 - (rows - row[..., None]).abs())
    weight = weight * ((columns >= 0) & (columns < width) & (rows >= 0) & (rows < height))
    number = rows.clamp(0, height - 1).long() * width + columns.clamp(0, width - 1).long()
    number = number + height * width * torch.arange(batch, device=x.device)[:, None, None]
    read = F.embedding_bag(number.flatten(0, 1), table, per_sample_weights=weight.flatten(0, 1), mode="sum")
    return read.unflatten(0, (batch, points.shape[1])).mT


def read_masks(masks: Tensor, points: Tensor) -> Tensor:
    """Masks (N, H, W), bool, at points (N, P, 2) or (1, P, 2), each (x, y) in [0, 1] from one edge to the other -> (N, P) in
    [0, 1]: what `read_points` reads of them, without a float for each pixel."""
    height, width = masks.shape[-2:]
    x, y = points[..., 0] * width - 0.5, points[..., 1] * height - 0.5
    left, top = x.floor(), y.floor()
    total = torch.zeros(len(masks), points.shape[1], device=points.device)
    for row, of_row in ((top, 1 - (y - top)), (top + 1, y - top)):
        for column, of_column in ((left, 1 - (x - left)), (left + 1, x - left)):
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            pixel = row.clamp(0, height - 1).long() * width + column.clamp(0, width - 1).long()
            read = masks.flatten(1).gather(1, pixel.expand(len(masks), -1))
            total += read * (of_row * of_column * inside)
    return total
