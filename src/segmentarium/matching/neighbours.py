"""Nearest neighbours among descriptors: mutual, by the ratio test, in blocks, so that 10,000 × 10,000 take 40 MB."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

BLOCK = 2**20 * 10  # products at a time: 40 MB


class Matches(NamedTuple):
    """pairs (K, 2) int64: indices into the first and second descriptors, by the first;  distances (K,)."""

    pairs: Tensor
    distances: Tensor

    def __len__(self) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        return len(self.pairs)


def match(
    first: Tensor,
    second: Tensor,
    *,
    mutual: bool = True,
    ratio: float | None = None,
    distance: float | None = None,
    metric: Literal["l2", "hamming"] = "l2",
) -> Matches:
    """Descriptors (N, D) and (M, D) on one device -> each one's nearest in the other, where it passes all tests.

    mutual     it is the nearest the other way round, too
    ratio      its distance is at most this share of the second nearest's; None: any.  Of a single candidate there is no
               second, and it passes
    distance   it is at most so far; None: any
    metric     "l2", or "hamming": of bits, given as 0 and 1 (`bits`)

    No match is an empty result.  The whole table of distances is never there.
    """
    if first.ndim != 2 or second.ndim != 2 or (len(first) and len(second) and first.shape[1] != second.shape[1]):
        raise ValueError(
            f"descriptors have shapes {tuple(first.shape)} and {tuple(second.shape)}; give (N, D) and (M, D), such as those "
            "of one model"
        )
    if ratio is not None and not 0 < ratio <= 1:
        raise ValueError(f"ratio is {ratio}; give a share above 0, at most 1, such as 0.8, or None")
    if not len(first) or not len(second) or not first.shape[1]:
        return Matches(torch.zeros(0, 2, dtype=torch.int64, device=first.device), first.new_zeros(0))
    first, second = first.float(), second.float()
    lengths = second.square().sum(1)
    rows = max(1, BLOCK // len(second))
    wanted = min(2, len(second))
    nearest: list[Tensor] = []
    closest: list[Tensor] = []
    best = torch.full((len(second),), torch.inf, device=second.device)  # of each of the second: its nearest so far
    owner = torch.zeros(len(second), dtype=torch.int64, device=second.device)
    for start in range(0, len(first), rows):
        block = first[start : start + rows]
        squared = (block.square().sum(1)[:, None] + lengths - 2 * block @ second.T).clamp_(min=0)
        least, index = squared.topk(wanted, dim=1, largest=False)
        closest.append(least)
        nearest.append(index[:, 0])
        if mutual:
            found, who = squared.min(0)
            better = found < best
            best = torch.where(better, found, best)
            owner = torch.where(better, who + start, owner)
    index, least = torch.cat(nearest), torch.cat(closest)
    least = least if metric == "hamming" else least.sqrt()
    own = torch.arange(len(first), device=first.device)
    kept = torch.ones_like(own, dtype=torch.bool)
    if mutual:
        kept &= owner[index] == own
    if ratio is not None and wanted == 2:
        kept &= least[:, 0] <= ratio * least[:, 1]
    if distance is not None:
        kept &= least[:, 0] <= distance
    return Matches(torch.stack((own, index), 1)[kept], least[kept, 0])


def bits(packed: np.ndarray) -> Tensor:
    """Binary descriptors as OpenCV gives them, (N, bytes) uint8 -> (N, 8 · bytes) of 0 and 1, for `metric="hamming"`."""
    return torch.from_numpy(np.unpackbits(packed, axis=1).astype(np.float32))
