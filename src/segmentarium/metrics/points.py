"""How good detected points are where the true ones are known: average precision and localisation error.

As SuperPoint's paper scores detectors on drawn shapes, after the MIT code by Pautrat and Sarlin.
"""

from __future__ import annotations

import numpy as np


def point_hits(
    points: np.ndarray, scores: np.ndarray, truth: np.ndarray, distance: float = 2.0
) -> tuple[np.ndarray, np.ndarray]:
    """Detections (N, 2) and scores (N,), true points (M, 2), all in pixels -> scores in falling order, and which are right.

    A detection is right if a true point lies within `distance`, and the first such one, row after row of the picture, has not
    been found by a surer detection.
    """
    order = np.argsort(-scores, kind="stable")
    points, scores = points[order], scores[order]
    right = np.zeros(len(points), bool)
    if len(points) and len(truth):
        truth = truth[np.lexsort((truth[:, 0], truth[:, 1]))]
        near = np.hypot(*np.moveaxis(points[:, None] - truth, -1, 0)) <= distance
        some = np.flatnonzero(near.any(1))
        right[some[np.unique(near[some].argmax(1), return_index=True)[1]]] = True
    return scores, right


def point_precision(scores: np.ndarray, right: np.ndarray, true_points: int) -> float:
    """Average precision of the detections of all pictures together: the area under the envelope of precision over recall.

    scores, right   (N,) as `point_hits` gives them, of all pictures
    true_points     how many there are; 0 gives NaN
    """
    if not true_points:
        return float("nan")
    right = right[np.argsort(-scores, kind="stable")]
    found = np.cumsum(right)
    recall = np.concatenate(([0.0], found / true_points, [1.0]))
    precision = np.concatenate(([0.0], found / np.arange(1, len(right) + 1), [0.0]))
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall) * envelope[1:]).sum())


def localisation_errors(points: np.ndarray, truth: np.ndarray, distance: float = 2.0) -> np.ndarray:
    """Distances of detections (N, 2) from their nearest true points (M, 2), of those within `distance` pixels."""
    if not len(points) or not len(truth):
        return np.zeros(0)
    nearest = np.hypot(*np.moveaxis(points[:, None] - truth, -1, 0)).min(1)
    return nearest[nearest <= distance]
