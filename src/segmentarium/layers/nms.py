"""Non-maximum suppression for a whole batch, with answers that a graph can hold."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

MANY = 2**31


def suppress(boxes: Tensor, scores: Tensor, groups: Tensor, overlap: float, size: Sequence[int]) -> Tensor:
    """(N, 4) boxes, (N,) scores, (N,) int64 groups -> (M,) int64: which are kept, best first.

    One box of a group hides the less sure ones whose intersection over union with it is greater than `overlap`.  No box reaches
    beyond an image of (H, W) = `size`.
    """
    from torchvision.ops import batched_nms, nms  # wakes PyTorch's compiler, which takes longer than loading a file

    if not torch.compiler.is_compiling():
        return batched_nms(boxes, scores, groups, overlap)
    # a graph has one call: groups are moved apart, so that no two of them meet
    apart = groups.to(boxes.dtype) * (size[0] + size[1])
    kept = nms(boxes + apart[:, None], scores, overlap)
    torch._check(kept.shape[0] <= MANY)
    return kept


def indices(mask: Tensor) -> tuple[Tensor, ...]:
    """Where a mask is true: `torch.where`, of which a graph knows that there are not so many that numbers of them overflow."""
    found = torch.where(mask)
    torch._check(found[0].shape[0] <= MANY)
    return found


def places(images: Tensor, batch: int, count: int) -> Tensor:
    """(M,) int64 number of each entry's image -> (M,): its place in a table of (batch, count + 1) rows, counted through.

    An image's entries take its places in their order; those that find none left share the last one, which nobody reads.
    """
    own = images[:, None] == torch.arange(batch, device=images.device)
    rank = (own.cumsum(0) * own).sum(1) - 1
    return images * (count + 1) + rank.clamp(max=count)


def padded(values: Tensor, where: Tensor, batch: int, count: int, empty: float) -> Tensor:
    """(M, …) values and their `places` -> (batch, count, …), `empty` where there is none."""
    table = values.new_full((batch * (count + 1), *values.shape[1:]), empty)
    return table.index_put((where,), values).unflatten(0, (batch, count + 1))[:, :count]
