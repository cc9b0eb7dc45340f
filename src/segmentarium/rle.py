"""Masks as runs, in COCO's form: what its JSON files and tools hold instead of pixels.

Runs go down the columns, from the left one to the right, and alternate: pixels outside, pixels inside, outside, …  In a file
they are a list of numbers, or text: each number less the one two before it, in groups of five bits.  Polygons become pixels
exactly as in COCO's own tools, whose outlines lie on a grid five times as fine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

FINER = 5  # the grid on which outlines are drawn
FIRST = 48  # the character of 0


class Patch(NamedTuple):
    """A mask in its box: bool (h, w), and the row and column of its upper left pixel in the picture."""

    top: int
    left: int
    mask: np.ndarray

    @property
    def where(self) -> tuple[slice, slice]:
        """The box, to index a picture (H, W, …) with."""
        height, width = self.mask.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)

    def full(self, height: int, width: int) -> np.ndarray:
        """bool (height, width): the mask in the whole picture."""
        whole = np.zeros((height, width), bool)
        whole[self.where] = self.mask
        return whole


def patch(mask: np.ndarray) -> Patch:
    """A mask bool (H, W) cut to what it holds; an empty one has no rows and no columns."""
    rows, columns = np.asarray(mask.any(1)), np.asarray(mask.any(0))
    if not rows.any():
        return Patch(0, 0, np.zeros((0, 0), bool))
    top, left = int(rows.argmax()), int(columns.argmax())
    bottom, right = len(rows) - int(rows[::-1].argmax()), len(columns) - int(columns[::-1].argmax())
    return Patch(top, left, mask[top:bottom, left:right])


def runs_of(mask: np.ndarray) -> np.ndarray:
    """Runs int64 (n,) of a mask bool (H, W); the first is of pixels outside and may be 0."""
    flat = np.asarray(mask, bool).T.reshape(-1)
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    starts = np.concatenate(([0] if flat.size and flat[0] else [], changes, [flat.size]))
    return np.diff(starts, prepend=0).astype(np.int64)


def mask_of(runs: np.ndarray | Sequence[int], height: int, width: int) -> np.ndarray:
    """The mask bool (height, width) of its runs.  ValueError where they do not fill the picture."""
    lengths = np.asarray(runs, np.int64)
    if lengths.ndim != 1 or (lengths < 0).any() or lengths.sum() != height * width:
        raise ValueError(
            f"{lengths.size} runs of {int(lengths.sum())} pixels are no mask of {width} x {height} = {height * width}"
        )
    inside = np.arange(lengths.size) % 2 == 1
    return np.repeat(inside, lengths).reshape(width, height).T


def encode(mask: np.ndarray) -> dict[str, Any]:
    """{"size": [height, width], "counts": text} of a mask bool (H, W), as COCO's results have it."""
    runs = runs_of(mask)
    values = runs.copy()
    values[3:] -= runs[1:-2]
    groups = []
    going = np.ones(len(values), bool)
    while going.any():
        bits, values = values & 31, values >> 5
        more = values != np.where(bits & 16, -1, 0)  # the fifth bit of the last group is the sign
        groups.append(np.where(going, bits + 32 * more + FIRST, 0))
        going = going & more
    characters = np.stack(groups, 1)
    return {"size": list(mask.shape), "counts": characters[characters > 0].astype(np.uint8).tobytes().decode("ascii")}


def decode(rle: Mapping[str, Any]) -> np.ndarray:
    """The mask bool (H, W) of {"size": [height, width], "counts": text or list}.  ValueError for what is none."""
    try:
        height, width = (int(side) for side in rle["size"])
        counts = rle["counts"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"a mask in runs needs size [height, width] and counts; this one has {error}") from error
    if not isinstance(counts, str | bytes):
        return mask_of(counts, height, width)
    text = np.frombuffer(counts.encode() if isinstance(counts, str) else counts, np.uint8).astype(np.int64) - FIRST
    if not text.size or text.min() < 0 or text.max() > 63 or text[-1] & 32:
        raise ValueError(f"the counts of a mask in runs are {counts[:20]!r}…, which is no text of COCO's")
    ends = np.flatnonzero(text & 32 == 0)
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if lengths.max() > 12:
        raise ValueError("a count of a mask in runs has more than 12 characters")
    place = np.arange(text.size) - np.repeat(starts, lengths)
    values = np.add.reduceat((text & 31) << (5 * place), starts)
    values -= np.where(text[ends] & 16, np.int64(1) << (5 * lengths), 0)
    values[1::2], values[2::2] = np.cumsum(values[1::2]), np.cumsum(values[2::2])
    return mask_of(values, height, width)


def polygon(points: np.ndarray | Sequence[float], height: int, width: int) -> Patch:
    """The pixels of one polygon: x, y, x, y, … in pixels, the first one's corner being (0, 0); what lies outside is cut off.

    Fewer than three points, or a line, have none.
    """
    corners = np.trunc(np.asarray(points, np.float64).reshape(-1, 2) * FINER + 0.5).astype(np.int64)
    if len(corners) < 3 or height < 1 or width < 1:
        return Patch(0, 0, np.zeros((0, 0), bool))
    outline = np.concatenate([_line(a, b) for a, b in zip(corners, np.roll(corners, -1, 0), strict=True)])
    x, y = outline[:, 0], outline[:, 1]
    step = np.flatnonzero(x[1:] != x[:-1]) + 1  # where the outline passes from one column of the fine grid to the next
    column = (np.minimum(x[step], x[step - 1]) + 0.5) / FINER - 0.5
    row = np.ceil(np.clip((np.minimum(y[step], y[step - 1]) + 0.5) / FINER - 0.5, 0, height)).astype(np.int64)
    middle = (column == np.floor(column)) & (column >= 0) & (column <= width - 1)  # of a column of pixels
    column, row = column[middle].astype(np.int64), row[middle]
    if not len(column):
        return Patch(0, 0, np.zeros((0, 0), bool))
    left, top = int(column.min()), int(row.min())
    crossings = np.zeros((int(column.max()) - left + 1, int(row.max()) - top + 1), np.int64)
    np.add.at(crossings, (column - left, row - top), 1)
    inside = patch((np.cumsum(crossings, 1) % 2 == 1).T)
    return Patch(top + inside.top, left + inside.left, inside.mask)


def _line(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """(n, 2) points of the grid from one to the other, both included, one a step of the longer direction."""
    long = 0 if abs(end[0] - start[0]) >= abs(end[1] - start[1]) else 1
    steps = int(abs(end[long] - start[long]))
    turned = start[long] > end[long]  # a line is rounded the same from either end
    low, high = (end, start) if turned else (start, end)
    along = np.arange(steps + 1)
    points = np.empty((steps + 1, 2), np.int64)
    points[:, long] = low[long] + along
    slope = (high[1 - long] - low[1 - long]) / steps if steps else 0.0
    points[:, 1 - long] = np.trunc(low[1 - long] + slope * along + 0.5)
    return points[::-1] if turned else points


def united(patches: Sequence[Patch]) -> Patch:
    """What at least one of some masks has."""
    patches = [one for one in patches if one.mask.size]
    if len(patches) < 2:
        return patches[0] if patches else Patch(0, 0, np.zeros((0, 0), bool))
    top, left = min(one.top for one in patches), min(one.left for one in patches)
    bottom = max(one.top + one.mask.shape[0] for one in patches)
    right = max(one.left + one.mask.shape[1] for one in patches)
    whole = np.zeros((bottom - top, right - left), bool)
    for one in patches:
        whole[Patch(one.top - top, one.left - left, one.mask).where] |= one.mask
    return Patch(top, left, whole)
