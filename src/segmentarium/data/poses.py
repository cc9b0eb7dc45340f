"""Where a lidar stood: poses as (4, 4) float64 matrices, points and boxes brought from one frame to another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Sweep(NamedTuple):
    """One turn of a lidar.

    points    (N, F) float32, x, y, z first
    pose      (4, 4): the place's coordinates from the lidar's
    seconds   when
    """

    points: np.ndarray
    pose: np.ndarray | None
    seconds: float


def pose_matrix(quaternion: Sequence[float] | np.ndarray, translation: Sequence[float] | np.ndarray) -> np.ndarray:
    """A rotation as quaternion w, x, y, z and a translation -> (4, 4).  ValueError for a quaternion of length 0."""
    q = np.asarray(quaternion, np.float64)
    length = np.linalg.norm(q)
    if q.shape != (4,) or not length > 0:
        raise ValueError(f"the rotation is {q.tolist()}; give a quaternion w, x, y, z that is not 0")
    w, x, y, z = q / length
    pose = np.eye(4)
    pose[:3, :3] = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    pose[:3, 3] = translation
    return pose


def moved(points: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """Points (N, 3+) through a pose; further columns stay."""
    result = np.array(points, copy=True)
    result[:, :3] = points[:, :3].astype(np.float64) @ pose[:3, :3].T + pose[:3, 3]
    return result


def moved_boxes(boxes: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """Boxes (M, 7 or 9) through a pose: their angle turns about the vertical, speeds with it."""
    result = moved(boxes, pose)
    turn = math.atan2(pose[1, 0], pose[0, 0])
    result[:, 6] += turn
    if boxes.shape[1] >= 9:
        result[:, 7:9] = boxes[:, 7:9] @ pose[:2, :2].T
    return result


def aggregate(sweeps: Sequence[Sweep]) -> np.ndarray:
    """Several sweeps as one cloud (N, F + 1) in the frame of the first: the last column says how many seconds earlier than the
    first a point was seen.

    Raises ValueError where a pose is missing or sweeps have other columns than the first; one sweep needs no pose.
    """
    if not sweeps:
        raise ValueError("there is no sweep to aggregate; give one or more")
    first, parts = sweeps[0], []
    for number, sweep in enumerate(sweeps):
        points = sweep.points
        if points.shape[1] != first.points.shape[1]:
            raise ValueError(
                f"sweep {number} has {points.shape[1]} columns, the first {first.points.shape[1]}; read the same of all"
            )
        if number:
            if first.pose is None or sweep.pose is None:
                raise ValueError(
                    f"sweep {0 if first.pose is None else number} has no pose, without which several sweeps cannot be laid over "
                    "each other; give one sweep, or the poses"
                )
            points = moved(points, np.linalg.inv(first.pose) @ sweep.pose)
        time = np.full((len(points), 1), first.seconds - sweep.seconds, np.float32)
        parts.append(np.concatenate((points.astype(np.float32), time), 1))
    return np.concatenate(parts)
