"""Whole pictures and sliding windows: one function for logits, in memory that does not grow with the picture.

Tiles lie on a regular grid and overlap. Their logits are blended with weights that sum to one at every pixel, so that no
seam shows: each tile's weight is a product of a row and a column profile, and so is their sum over the grid, which is
why the profiles can be normalised before the first tile is computed and no counter is needed.

`stream` gives finished blocks from top to bottom. Between two rows of tiles it keeps only the logits of the rows that
both cover, never those of the whole picture.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from segmentarium.preprocessing import SMALLEST

# (B, C, h, w) -> logits (B, K, h, w), in a tensor of its own: windows overwrite it
Forward = Callable[[Tensor], Tensor]
Blend = Literal["cosine", "linear", "mean"]

GRID = 32  # tiles are multiples of this where the picture allows: the deepest stride of most networks
TILE_BYTES = 2**26  # of a tile's logits, where the tile is chosen here
CARRY_LIMIT = 2**27  # bytes of overlapping logits that are kept in float32; beyond that they are kept in float16


class Rows(Protocol):
    """A picture that is read in rows, from top to bottom: never backwards behind the last `top`."""

    height: int
    width: int

    def rows(self, top: int, bottom: int) -> Tensor:
        """(B, C, bottom - top, width)"""
        ...


class Block(NamedTuple):
    """Finished logits (B, K, h, w) of the rectangle whose upper left pixel is (top, left)."""

    top: int
    left: int
    logits: Tensor


class TensorRows:
    """A tensor (B, C, H, W) as `Rows`."""

    def __init__(self, image: Tensor) -> None:
        self.image = image
        self.height, self.width = image.shape[-2:]

    def rows(self, top: int, bottom: int) -> Tensor:
        return self.image[..., top:bottom, :]


def pad_to_smallest(image: Tensor, smallest: int = SMALLEST) -> Tensor:
    """(..., H, W) of any dtype -> both sides at least `smallest`, by repeating the last row and column."""
    height, width = image.shape[-2:]
    if height == 0 or width == 0:
        raise ValueError(f"the picture is {width} x {height} pixels: it is empty")
    for dim, size in ((-2, height), (-1, width)):
        if size < smallest:
            image = image.index_select(dim, torch.arange(smallest, device=image.device).clamp_(max=size - 1))
    return image


def whole(forward: Forward, image: Tensor) -> Tensor:
    """Logits (B, K, H, W) of a picture (B, C, H, W) of any size; smaller than 32 pixels is padded and cropped again."""
    height, width = image.shape[-2:]
    return forward(pad_to_smallest(image))[..., :height, :width]


def sliding(
    forward: Forward,
    image: Tensor | Rows,
    tile: int = 1024,
    overlap: int | float = 0.125,
    blend: Blend = "cosine",
    *,
    batch_size: int = 1,
    spread: bool = True,
) -> Tensor:
    """Logits (B, K, H, W), float32, of a picture in overlapping tiles; the picture may have any dtype that `forward` takes.

    tile        the largest side of a tile, in pixels
    overlap     pixels (int), or share of the tile (float, 0 to 0.5), that neighbours have in common at least
    blend       how neighbours share what they have in common: "cosine" or "linear" ramps, or "mean" (as published
                sliding-window protocols do)
    batch_size  tiles to one call of `forward`
    spread      tiles stand evenly, as few as do; False: every tile - overlap pixels, and the last flush with the border, as in
                published protocols
    """
    rows = TensorRows(image) if isinstance(image, Tensor) else image
    result: Tensor | None = None
    for top, left, logits in stream(forward, rows, tile, overlap, blend, batch_size=batch_size, spread=spread):
        if result is None:
            result = logits.new_empty((*logits.shape[:2], rows.height, rows.width))
        result[..., top : top + logits.shape[-2], left : left + logits.shape[-1]] = logits
    assert result is not None  # a picture has at least one tile
    return result


def stream(
    forward: Forward,
    image: Rows,
    tile: int = 1024,
    overlap: int | float = 0.125,
    blend: Blend = "cosine",
    *,
    batch_size: int = 1,
    spread: bool = True,
) -> Iterator[Block]:
    """The same as `sliding`, block by finished block: left to right, then top to bottom, each pixel once.

    Keeps the rows of one row of tiles and the logits of the rows shared with the next one (in float16 where they exceed
    128 MB).
    """
    overlap = overlap_in_pixels(tile, overlap)
    tops, tall = grid(image.height, tile, overlap, spread)
    lefts, wide = grid(image.width, tile, overlap, spread)
    row_weights = profiles(tops, tall, image.height, overlap, blend)
    column_weights = profiles(lefts, wide, image.width, overlap, blend)
    carry: Tensor | None = None  # weighted logits of the rows shared with the row of tiles above
    for i, top in enumerate(tops):
        band = image.rows(top, top + tall)
        finished = (tops[i + 1] if i + 1 < len(tops) else image.height) - top
        above = tops[i - 1] + tall - top if i else 0
        pending: Tensor | None = None  # weighted logits of the columns shared with the tile to the left
        for j, logits in enumerate(_tiles(forward, band, lefts, wide, batch_size)):
            left = lefts[j]
            right = lefts[j + 1] if j + 1 < len(lefts) else image.width
            # in place, for at 19 classes a tile of 1024 takes 80 MB; what an engine computed may only be changed in its mode
            with torch.inference_mode() if logits.is_inference() else contextlib.nullcontext():
                block = logits.float()
                if len(tops) * len(lefts) > 1:
                    block *= row_weights[i].to(block.device)[:, None] * column_weights[j].to(block.device)
                if pending is not None:
                    block[..., : pending.shape[-1]] += pending
                pending = block[..., right - left :].clone()
                block = block[..., : right - left]
                if carry is None and len(tops) > 1:
                    carry = _empty_carry(block, tops, tall, image.width)
                if carry is not None:
                    if above:
                        block[..., :above, :] += carry[..., :above, left:right]
                    carry[..., : tall - finished, left:right] = block[..., finished:, :]
            yield Block(top, left, block[..., :finished, :])


def _tiles(forward: Forward, band: Tensor, lefts: list[int], wide: int, batch_size: int) -> Iterator[Tensor]:
    """Logits (B, K, tall, wide) of the tiles of one row."""
    batch = band.shape[0]
    for start in range(0, len(lefts), batch_size):
        some = [band[..., left : left + wide] for left in lefts[start : start + batch_size]]
        yield from whole(forward, some[0] if len(some) == 1 else torch.cat(some)).split(batch)


def _empty_carry(block: Tensor, tops: list[int], tall: int, width: int) -> Tensor:
    shared = max(above + tall - below for above, below in itertools.pairwise(tops))
    shape = (*block.shape[:2], shared, width)
    return block.new_zeros(shape, dtype=torch.float32 if 4 * math.prod(shape) <= CARRY_LIMIT else torch.float16)


def auto_tile(num_classes: int) -> int:
    """The tile of large pictures: 1024 pixels, less (but 512 at least) where logits of that size would pass 64 MB."""
    side = math.isqrt(TILE_BYTES // (4 * num_classes))
    return min(1024, max(512, side // 128 * 128))


def overlap_in_pixels(tile: int, overlap: int | float) -> int:
    """`overlap` as pixels.  Raises ValueError for a tile or an overlap that makes no grid."""
    if tile < SMALLEST:
        raise ValueError(f"tile is {tile}; give {SMALLEST} pixels or more")
    pixels = round(tile * overlap) if isinstance(overlap, float) else int(overlap)
    if not 0 <= pixels <= tile // 2:
        raise ValueError(
            f"overlap is {overlap}; give pixels from 0 to half the tile ({tile // 2}), or a share of it from 0.0 to 0.5"
        )
    return pixels


def grid(size: int, tile: int, overlap: int, spread: bool = True) -> tuple[list[int], int]:
    """First pixels of the tiles along one side of the picture, and the tiles' length.

    As few tiles as `tile` and `overlap` allow, spread evenly, and then no longer than needed: the least work.  Without
    `spread` as published protocols have them.
    """
    if size <= tile:
        return [0], size
    if not spread:
        return [*range(0, size - tile, tile - overlap), size - tile], tile
    count = math.ceil((size - overlap) / (tile - overlap))
    length = math.ceil((size + (count - 1) * overlap) / count)
    length = min(tile, math.ceil(length / GRID) * GRID)
    return [round(i * (size - length) / (count - 1)) for i in range(count)], length


def profiles(starts: list[int], length: int, size: int, overlap: int, blend: Blend) -> list[Tensor]:
    """Weight along one side of each tile: positive, rising over the overlap, summing to one at each of `size` pixels."""
    if blend == "mean" or overlap == 0:
        weight = torch.ones(length)
    else:
        position = torch.arange(length, dtype=torch.float32) + 0.5
        ramp = (torch.minimum(position, length - position) / overlap).clamp_(max=1.0)
        if blend == "cosine":
            ramp = torch.sin(ramp * (math.pi / 2)) ** 2
        elif blend != "linear":
            raise ValueError(f'blend is {blend!r}; give "cosine", "linear" or "mean"')
        weight = ramp
    total = torch.zeros(size)
    for start in starts:
        total[start : start + length] += weight
    return [weight / total[start : start + length] for start in starts]
