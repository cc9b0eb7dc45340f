"""Masks as polygons, and as the files of labelling tools: YOLO's lines, labelme's JSON, COCO's polygons.

A polygon runs along the edges of pixels, so that it can be filled to the mask it is of; a tolerance in pixels leaves out corners.
What these formats cannot say is a hole: it is joined to the outside by a seam of no width, which every program fills rightly.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segmentarium.brief import Brief
from segmentarium.rle import Patch

TOLERANCE = 1.0  # pixels
SMALLEST = 16  # pixels of a piece that is worth a polygon

Point = tuple[int, int]


@dataclass(frozen=True, repr=False)
class Polygon(Brief):
    """One connected piece of a class, or of a segment.

    index, name   of its class;  number: of its segment, where segments are told apart; score: how sure the model is of it
    points        (n, 2) float32 x, y in pixels, the corner of the first pixel being (0, 0); holes are joined by a seam
    area          pixels of the piece
    """

    index: int
    name: str
    points: np.ndarray
    area: int
    number: int | None = None
    score: float | None = None


@dataclass(frozen=True)
class Piece:
    """A mask that polygons are made of."""

    index: int
    patch: Patch
    number: int | None = None
    score: float | None = None


def polygons_of(
    pieces: Iterable[Piece], classes: Sequence[str], tolerance: float = TOLERANCE, smallest: int = SMALLEST
) -> list[Polygon]:
    """A polygon for each connected piece of at least `smallest` pixels, the largest of a mask first."""
    from scipy.ndimage import find_objects, label

    found: list[Polygon] = []
    for piece in pieces:
        parts, _ = label(piece.patch.mask)  # type: ignore[misc] - an array and a number
        own = []
        for number, place in enumerate(find_objects(parts), 1):
            mask = parts[place] == number
            area = int(mask.sum())
            if area < smallest:
                continue
            corner = (piece.patch.left + place[1].start, piece.patch.top + place[0].start)
            points = outline(mask, tolerance) + np.array(corner, np.float32)
            own.append(Polygon(piece.index, classes[piece.index], points, area, piece.number, piece.score))
        found += sorted(own, key=lambda one: -one.area)
    return found


def outline(mask: np.ndarray, tolerance: float = 0.0) -> np.ndarray:
    """(n, 2) float32 x, y of the one polygon around a connected mask bool (H, W); its holes are joined to it."""
    outside, *holes = [simplified(ring, tolerance) for ring in rings(mask)]
    for hole in sorted((hole for hole in holes if len(hole) > 2), key=lambda ring: ring[:, 0].min()):
        distances = ((outside[:, None] - hole[None]) ** 2).sum(2)
        here, there = np.unravel_index(int(distances.argmin()), distances.shape)
        turned = np.roll(hole, -int(there), 0)
        outside = np.concatenate((outside[: here + 1], turned, turned[:1], outside[here:]))
    return outside


def rings(mask: np.ndarray) -> list[np.ndarray]:
    """The closed lines around a mask bool (H, W) along the edges of its pixels, (n, 2) float32 corners x, y; the outer one first.

    Pixels that touch at a corner alone are not connected.
    """
    ways = _edges(mask)
    found = []
    while ways:
        start = next(iter(ways))
        here, heading, corners = start, (0, 0), []
        while True:
            ends = ways[here]
            right = (here[0] - heading[1], here[1] + heading[0])  # where two lines cross, the one that stays close
            there = right if right in ends else ends[0]
            ends.remove(there)
            if not ends:
                del ways[here]
            towards = (there[0] - here[0], there[1] - here[1])
            if towards != heading:
                corners.append(here)
            here, heading = there, towards
            if here == start:
                break
        found.append(np.array(corners, np.float32))
    return sorted(found, key=lambda ring: float(ring[:, 0].min()))  # a hole begins farther right


def _edges(mask: np.ndarray) -> dict[Point, list[Point]]:
    """Corner -> the corners that lines lead to from it, with the mask to their right."""
    padded = np.pad(np.asarray(mask, bool), 1)
    above, below, before, behind = padded[:-1], padded[1:], padded[:, :-1], padded[:, 1:]
    ways: dict[Point, list[Point]] = {}
    # where lines start and end, seen from the corner at which rows or columns meet
    for lines, start, end in (
        (below & ~above, (-1, 0), (0, 0)),  # along the top, to the right
        (above & ~below, (0, 0), (-1, 0)),  # along the bottom, to the left
        (behind & ~before, (0, 0), (0, -1)),  # along the left, upwards
        (before & ~behind, (0, -1), (0, 0)),  # along the right, downwards
    ):
        for y, x in np.argwhere(lines).tolist():
            ways.setdefault((x + start[0], y + start[1]), []).append((x + end[0], y + end[1]))
    return ways


def simplified(ring: np.ndarray, tolerance: float) -> np.ndarray:
    """The same with as few corners as stay within `tolerance` pixels of it."""
    if tolerance <= 0 or len(ring) < 5:
        return ring
    import cv2

    kept = cv2.approxPolyDP(ring[:, None], tolerance, True)[:, 0]
    return kept if len(kept) > 2 else ring


def yolo_lines(polygons: Sequence[Polygon], size: tuple[int, int]) -> str:
    """A line each: the class's index and x y x y … in shares of a picture of `size` (H, W)."""
    scale = np.array(size[::-1], np.float32)
    lines = [" ".join([str(one.index), *(f"{v:.6f}" for v in (one.points / scale).ravel())]) for one in polygons]
    return "".join(f"{line}\n" for line in lines)


def labelme_content(
    polygons: Sequence[Polygon], size: tuple[int, int], picture: Path | None, folder: Path | None = None
) -> dict[str, Any]:
    """What labelme opens: a polygon each; those of one segment share a group.

    picture   the file that was segmented; folder: where the JSON will lie, from which it is named
    """
    named = "" if picture is None else str(picture)
    if picture is not None and folder is not None:
        named = os.path.relpath(picture.resolve(), folder.resolve()).replace("\\", "/")
    shapes = [
        {
            "label": one.name,
            "points": one.points.round(2).tolist(),
            "group_id": one.number,
            "shape_type": "polygon",
            "flags": {},
        }
        for one in polygons
    ]
    said = {"version": "5.0.1", "flags": {}, "shapes": shapes, "imagePath": named, "imageData": None}
    return said | {"imageHeight": size[0], "imageWidth": size[1]}
