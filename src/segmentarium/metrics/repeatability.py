"""What key points are worth on two pictures that a known homography relates: HPatches' protocol, as SuperPoint's paper has it.

Points are (N, 2) x, y in pixels, best first; sizes (height, width).  "Shared" are points whose place lies in the other picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from segmentarium.data import homographies
from segmentarium.data.homographies import warp_points

inside = partial(homographies.inside, edge=0.0)  # as the protocol's scripts count


def nearest(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(N,) distance of each of the first to its nearest among the second, infinite where there is none."""
    if not len(first) or not len(second):
        return np.full(len(first), np.inf)
    return np.sqrt(((first[:, None] - second) ** 2).sum(2).min(1))


class Repeated(NamedTuple):
    """share of both pictures' shared points that have a counterpart; error: their mean distance in pixels, NaN of none."""

    share: float
    error: float
    points: int


def repeatability(
    first: np.ndarray,
    second: np.ndarray,
    homography: np.ndarray,
    sizes: tuple[tuple[int, int], tuple[int, int]],
    *,
    count: int = 300,
    distance: float = 3.0,
) -> Repeated:
    """Points of a picture and of its warp, best first -> how many come again.

    Of either picture the `count` best points that the other shows; one comes again if another lies within `distance` pixels,
    both seen in the second picture.
    """
    moved = warp_points(first, homography)
    moved = moved[inside(moved, sizes[1])][:count]
    second = second[inside(warp_points(second, np.linalg.inv(homography)), sizes[0])][:count]
    there, back = nearest(moved, second), nearest(second, moved)
    near = np.concatenate((there, back))
    again = near <= distance
    if not len(near):
        return Repeated(0.0, float("nan"), 0)
    error = float(near[again].mean()) if again.any() else float("nan")
    return Repeated(float(again.sum() / len(near)), error, len(near))


def matching_score(
    first: np.ndarray,
    second: np.ndarray,
    pairs: np.ndarray,
    homography: np.ndarray,
    sizes: tuple[tuple[int, int], tuple[int, int]],
    distance: float = 3.0,
) -> float:
    """Right matches over shared points, the mean of both pictures' shares; pairs (K, 2) of indices, mutual neighbours."""
    moved = warp_points(first, homography)
    back = warp_points(second, np.linalg.inv(homography))
    shared = [inside(moved, sizes[1]), inside(back, sizes[0])]
    if not all(which.any() for which in shared):
        return 0.0
    a, b = pairs[:, 0], pairs[:, 1]
    right = (np.linalg.norm(moved[a] - second[b], axis=1) <= distance) & shared[0][a] & shared[1][b]
    return float(np.mean([right.sum() / which.sum() for which in shared]))


def nearest_neighbour_ap(
    first: np.ndarray,
    second: np.ndarray,
    neighbours: tuple[np.ndarray, np.ndarray],
    distances: tuple[np.ndarray, np.ndarray],
    homography: np.ndarray,
    sizes: tuple[tuple[int, int], tuple[int, int]],
    distance: float = 3.0,
) -> float:
    """Average precision of nearest neighbours, sorted by their descriptors' distance; the mean of both directions.

    neighbours   (N,) index of each first point's nearest second one, and (M,) the other way;  distances   of their descriptors

    A neighbour is right within `distance` pixels of where the point should be; to be found are all shared points that have a
    counterpart so near.
    """
    scores = []
    inverse = np.linalg.inv(homography)
    for one, other, index, far, matrix, size in (
        (first, second, neighbours[0], distances[0], homography, sizes[1]),
        (second, first, neighbours[1], distances[1], inverse, sizes[0]),
    ):
        moved = warp_points(one, matrix)
        shared = inside(moved, size)
        if not shared.any() or not len(other):
            scores.append(0.0)
            continue
        wanted = int((nearest(moved[shared], other) <= distance).sum())
        right = np.linalg.norm(moved[shared] - other[index[shared]], axis=1) <= distance
        scores.append(average_precision(right, -far[shared], wanted))
    return float(np.mean(scores))


def average_precision(right: np.ndarray, scores: np.ndarray, wanted: int) -> float:
    """The area under precision over recall, (N,) answers with their scores and how many there are to be found."""
    if not wanted:
        return 0.0
    hits = np.cumsum(right[np.argsort(-scores, kind="stable")])
    recall, precision = hits / wanted, hits / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall, prepend=0) * envelope).sum())


def corner_error(found: np.ndarray | None, homography: np.ndarray, size: tuple[int, int]) -> float:
    """Mean distance in pixels of where a found homography takes the picture's four corners; infinite where there is none."""
    if found is None:
        return float("inf")
    height, width = size
    corners = np.array([[0, 0], [width - 1, 0], [0, height - 1], [width - 1, height - 1]], float)
    error = np.linalg.norm(warp_points(corners, found) - warp_points(corners, homography), axis=1).mean()
    return float(error) if np.isfinite(error) else float("inf")


# against labelled points ------------------------------------------------------------------------------------------------


def detection_ap(
    found: Sequence[np.ndarray], scores: Sequence[np.ndarray], labelled: Sequence[np.ndarray], distance: float = 2.0
) -> float:
    """Average precision of detected points of several pictures, pooled; a point is right if it is the best of those of which
    the same labelled point is the first within `distance` pixels.

    labelled   of each picture (M, 2), by rows (y, then x): of several near ones the first counts, as in rpautrat's code
    """
    right, order = [], np.concatenate([np.asarray(s, float) for s in scores]) if scores else np.zeros(0)
    owners = []
    for number, (points, truth) in enumerate(zip(found, labelled, strict=True)):
        near = (
            ((points[:, None] - truth) ** 2).sum(2) <= distance**2 if len(truth) else np.zeros((len(points), 1), bool)
        )
        right.append(near.any(1))
        owners.append(np.column_stack((np.full(len(points), number), near.argmax(1))))
    total = sum(map(len, labelled))
    if not len(order) or not total:
        return 0.0
    by_score = np.argsort(-order, kind="stable")
    hit, owner = np.concatenate(right)[by_score], np.concatenate(owners)[by_score]
    taken: set[tuple[int, int]] = set()
    for i, (good, pair) in enumerate(zip(hit, owner.tolist(), strict=True)):
        hit[i] = good and (pair[0], pair[1]) not in taken
        if hit[i]:
            taken.add((pair[0], pair[1]))
    return average_precision(hit, order[by_score], total)


def localisation_error(found: Sequence[np.ndarray], labelled: Sequence[np.ndarray], distance: float = 2.0) -> float:
    """Mean distance of detected points to their nearest labelled one, of those within `distance` pixels; NaN of none."""
    near = np.concatenate(
        [nearest(points, truth) for points, truth in zip(found, labelled, strict=True)] or [np.zeros(0)]
    )
    near = near[near <= distance]
    return float(near.mean()) if len(near) else float("nan")
