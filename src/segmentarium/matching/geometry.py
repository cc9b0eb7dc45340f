"""Homography, fundamental and essential matrix of matched points, by OpenCV's robust estimators.

What cannot be estimated is a result that says why: too few points, points on one line, an estimator that finds nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np

from segmentarium.checks import check_choice

Kind = Literal["homography", "fundamental", "essential"]
LEAST = {"homography": 4, "fundamental": 8, "essential": 5}  # points without which there is none
METHODS = ("ransac", "magsac", "lmeds")
THIN = 1e-3  # a spread across the points of less than this share of that along them is a line


@dataclass(frozen=True)
class Geometry:
    """What relates two pictures' points.

    matrix     (3, 3) float64, its last entry 1 where that is possible; None: there is none
    inliers    (K,) bool, of the matches
    reason     why there is no matrix; "" where there is one
    rotation, translation   of an essential matrix: (3, 3), and (3,) of length 1
    """

    kind: str
    matrix: np.ndarray | None
    inliers: np.ndarray
    reason: str = ""
    rotation: np.ndarray | None = None
    translation: np.ndarray | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        found = {"kind": self.kind, "matrix": None if self.matrix is None else self.matrix.tolist()}
        found |= {"inliers": int(self.inliers.sum()), "matches": len(self.inliers), "reason": self.reason}
        if self.rotation is not None and self.translation is not None:
            found |= {"rotation": self.rotation.tolist(), "translation": self.translation.tolist()}
        return found


def estimate(
    first: np.ndarray,
    second: np.ndarray,
    kind: Kind = "homography",
    *,
    method: str = "ransac",
    threshold: float = 3.0,
    confidence: float = 0.999,
    iterations: int = 5000,
    cameras: tuple[np.ndarray, np.ndarray] | None = None,
) -> Geometry:
    """Matched points (K, 2) x, y in pixels of two pictures -> what maps or relates them.

    kind         "homography" maps the first to the second; "fundamental", "essential" relate them: second · F · first = 0
    method       "ransac", "magsac" (no sharp threshold), "lmeds" (no threshold at all)
    threshold    pixels up to which a match agrees
    confidence, iterations   of the estimator
    cameras      (3, 3) matrices of both cameras, which an essential matrix needs

    Raises ValueError for unknown words, points that are no pairs, and a threshold or focal lengths that are not above 0.
    """
    check_choice("kind", kind, tuple(LEAST))
    check_choice("method", method, METHODS)
    first, second = (np.asarray(points, np.float64).reshape(-1, 2) for points in (first, second))
    if len(first) != len(second):
        raise ValueError(f"{len(first)} points are matched with {len(second)}; give as many of both, in pairs")
    if kind == "essential" and cameras is None:
        raise ValueError(
            "an essential matrix needs both cameras' matrices; give cameras, or ask for the fundamental one"
        )
    if not threshold > 0:  # OpenCV takes its own in place of 0 and less
        raise ValueError(f"threshold is {threshold}; give pixels, above 0")
    if kind == "essential" and cameras is not None:
        focal = [float(camera[i][i]) for camera in cameras for i in (0, 1)]
        if not all(0 < length < np.inf for length in focal):
            raise ValueError(f"the cameras' focal lengths are {focal}; give pixels, above 0")
    usable = np.isfinite(first).all(1) & np.isfinite(second).all(1)
    nothing = np.zeros(len(first), bool)
    if usable.sum() < LEAST[kind]:
        return Geometry(kind, None, nothing, f"{usable.sum()} matches; it takes {LEAST[kind]} or more")
    for points, which in ((first, "first"), (second, "second")):
        if _on_a_line(points[usable]):
            return Geometry(kind, None, nothing, f"degenerate: the matched points of the {which} picture lie on a line")
    try:
        matrix, mask, pose = _estimated(
            first[usable], second[usable], kind, method, threshold, confidence, iterations, cameras
        )
    except cv2.error as error:
        return Geometry(kind, None, nothing, f"OpenCV finds none: {str(error.err).strip()}")
    if matrix is None or mask is None:
        return Geometry(kind, None, nothing, "no matrix agrees with enough matches")
    matrix = np.asarray(matrix, np.float64)[:3]  # of several candidates, the first
    inliers = nothing.copy()
    inliers[usable] = np.asarray(mask).ravel() > 0
    if reason := _fault(matrix, first[inliers], second[inliers], kind):
        return Geometry(kind, None, nothing, reason)
    return Geometry(kind, matrix, inliers, "", *pose)


def _estimated(
    first: np.ndarray,
    second: np.ndarray,
    kind: str,
    method: str,
    threshold: float,
    confidence: float,
    iterations: int,
    cameras: tuple[np.ndarray, np.ndarray] | None,
) -> tuple[np.ndarray | None, np.ndarray | None, tuple[np.ndarray, np.ndarray] | tuple[()]]:
    if kind == "homography":
        code = {"ransac": cv2.RANSAC, "magsac": cv2.USAC_MAGSAC, "lmeds": cv2.LMEDS}[method]
        found, mask = cv2.findHomography(first, second, code, threshold, maxIters=iterations, confidence=confidence)
        return found, mask, ()
    code = {"ransac": cv2.FM_RANSAC, "magsac": cv2.USAC_MAGSAC, "lmeds": cv2.FM_LMEDS}[method]
    if kind == "fundamental":
        found, mask = cv2.findFundamentalMat(first, second, code, threshold, confidence, iterations)
        return found, mask, ()
    assert cameras is not None
    code = {"ransac": cv2.RANSAC, "magsac": cv2.USAC_MAGSAC, "lmeds": cv2.LMEDS}[method]
    # in each camera's own units, so that two different cameras go; the threshold follows their mean focal length
    one, other = (
        cv2.undistortPoints(points[:, None], np.asarray(camera, np.float64), None)[:, 0]
        for points, camera in zip((first, second), cameras, strict=True)
    )
    focal = np.mean([[camera[0][0], camera[1][1]] for camera in cameras])
    found, mask = cv2.findEssentialMat(
        one, other, np.eye(3), method=code, prob=confidence, threshold=threshold / float(focal), maxIters=iterations
    )
    if found is None or np.asarray(found).shape[0] < 3:
        return None, None, ()
    _, rotation, translation, _ = cv2.recoverPose(found[:3], one, other, np.eye(3), mask=mask.copy())
    return found, mask, (rotation, translation[:, 0])


def _fault(matrix: np.ndarray, first: np.ndarray, second: np.ndarray, kind: str) -> str:
    """Why a matrix is of no use; "" where it is."""
    if not np.isfinite(matrix).all():
        return "degenerate: the matrix is not finite"
    if len(first) < LEAST[kind]:
        return f"{len(first)} matches agree; it takes {LEAST[kind]} or more"
    if _on_a_line(first) or _on_a_line(second):
        return "degenerate: the matches that agree lie on a line"
    if kind == "homography":
        values = np.linalg.svd(matrix / np.linalg.norm(matrix), compute_uv=False)
        if values[2] < 1e-12:
            return "degenerate: the homography cannot be inverted"
        depth = np.column_stack((first, np.ones(len(first)))) @ matrix[2]
        if not ((depth > 0).all() or (depth < 0).all()):
            return "degenerate: the homography folds the picture"
    return ""


def _on_a_line(points: np.ndarray) -> bool:
    """Of two points and more: all on a line, or in one place."""
    spread = np.linalg.svd(points - points.mean(0), compute_uv=False)
    return bool(spread[1] <= THIN * max(spread[0], 1e-9))
