"""Which candidates nobody beats in both speed and accuracy."""

from __future__ import annotations

import math
from collections.abc import Sequence


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points (cost, value) that no other point equals or beats in both and beats in one, by rising cost.

    Points that are not finite are on no front; equal points are on it together.
    """
    finite = [i for i, point in enumerate(points) if all(map(math.isfinite, point))]
    order = sorted(finite, key=lambda i: (points[i][0], -points[i][1]))
    front: list[int] = []
    for i in order:
        if not front or points[i][1] > points[front[-1]][1] or points[i] == points[front[-1]]:
            front.append(i)
    return front
