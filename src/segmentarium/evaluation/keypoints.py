"""HPatches' protocol for any detector: repeatability and localisation at one size, matching and homographies at another.

Of learnt and classical detectors alike, in one run on the same pictures: see `python -m benchmarks.keypoints`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from segmentarium.contracts import KeypointModel, Keypoints
from segmentarium.data.hpatches import HPatches
from segmentarium.matching.classical import ClassicalDetector
from segmentarium.matching.geometry import estimate
from segmentarium.matching.neighbours import match
from segmentarium.metrics.repeatability import (
    Repeated,
    corner_error,
    inside,
    matching_score,
    nearest_neighbour_ap,
    repeatability,
    warp,
)

Detector = Callable[[np.ndarray], Keypoints]  # of a grey picture (H, W) uint8
ERRORS = (1, 3, 5)  # pixels of the corners


@dataclass(frozen=True)
class Contender:
    """A detector: at the size of repeatability, with its radius of suppression, and at that of matching.

    metric   of its descriptors; None: it has none, and is not matched
    """

    detect: Detector
    describe: Detector | None = None
    metric: Literal["l2", "hamming"] | None = None


@dataclass(frozen=True)
class Protocol:
    """small, count, radius, distance   of repeatability: size (height, width), best points, suppression, pixels
    large, matched, matched_radius   of matching and homographies
    """

    small: tuple[int, int] = (240, 320)
    count: int = 300
    radius: int = 4
    distance: float = 3.0
    large: tuple[int, int] = (480, 640)
    matched: int = 1000
    matched_radius: int = 8


def learnt(model: KeypointModel, protocol: Protocol, *, threshold: float = 0.0, subpixel: bool = False) -> Contender:
    """A network as a contender.  Its best points are taken whatever their scores, as so many of the classical ones are."""
    model.eval()
    device = next(model.parameters()).device

    def at(count: int, radius: int) -> Detector:
        def detect(grey: np.ndarray) -> Keypoints:
            image = model.preprocessing.normalise(
                torch.from_numpy(grey)[None].expand(model.in_channels, -1, -1).to(device)
            )
            return model.detect(image, count=count, radius=radius, threshold=threshold, subpixel=subpixel)

        return detect

    # more than are compared, since those that the other picture does not show are left out
    return Contender(at(4 * protocol.count, protocol.radius), at(2 * protocol.matched, protocol.matched_radius), "l2")


def classical(name: str, protocol: Protocol) -> Contender:
    """One of OpenCV's."""
    detector = ClassicalDetector(name, 4 * protocol.count, protocol.radius)
    if detector.metric is None:
        return Contender(detector)
    described = ClassicalDetector(name, 2 * protocol.matched, protocol.matched_radius)
    return Contender(detector, described, detector.metric)


def evaluate_keypoints(
    contenders: Mapping[str, Contender],
    roots: str | Path | list[str | Path],
    protocol: Protocol | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Name -> detector, on all pairs of the sequences: a row for each detector and kind of change, "all" among them.

    repeatability, localisation        at `protocol.small`
    matching, nn_map, homography_1, …  at `protocol.large`; NaN of detectors without descriptors
    failed                             share of pairs without any homography
    """
    protocol = protocol or Protocol()
    small, large = HPatches(roots, protocol.small), HPatches(roots, protocol.large)
    found: dict[tuple[str, str], list[dict[str, float]]] = defaultdict(list)
    for index, pair in enumerate(small.pairs):
        shrunk, whole = small.load(index), large.load(index)
        for name, contender in contenders.items():
            scores = _repeated(contender, shrunk, protocol)
            if contender.describe is not None:
                scores |= _matched(contender, whole, protocol)
            for change in (pair.change, "all"):
                found[name, change].append(scores)
        if progress:
            progress(index + 1, len(small))
    return [
        {"detector": name, "change": change, "pairs": len(rows), **_mean(rows)}
        for (name, change), rows in sorted(found.items(), key=lambda item: (item[0][1] != "all", item[0][1]))
    ]


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
    names = ("repeatability", "localisation", "matching", "nn_map", *(f"homography_{e}" for e in ERRORS), "failed")
    values = {name: np.array([row.get(name, np.nan) for row in rows], float) for name in names}
    return {
        name: float(np.nanmean(column)) if np.isfinite(column).any() else float("nan")
        for name, column in values.items()
    }


def _repeated(
    contender: Contender, pictures: tuple[np.ndarray, np.ndarray, np.ndarray], protocol: Protocol
) -> dict[str, float]:
    first, second, homography = pictures
    points = [contender.detect(picture).keypoints.cpu().numpy().astype(float) for picture in (first, second)]
    sizes = (_size(first), _size(second))
    result: Repeated = repeatability(
        points[0], points[1], homography, sizes, count=protocol.count, distance=protocol.distance
    )
    return {"repeatability": result.share, "localisation": result.error}


def _matched(
    contender: Contender, pictures: tuple[np.ndarray, np.ndarray, np.ndarray], protocol: Protocol
) -> dict[str, float]:
    assert contender.describe is not None
    assert contender.metric is not None
    first, second, homography = pictures
    sizes = (_size(first), _size(second))
    both = [contender.describe(picture) for picture in (first, second)]
    matrices = (homography, np.linalg.inv(homography))
    shown = [
        np.flatnonzero(inside(warp(found.keypoints.cpu().numpy().astype(float), matrix), size))[: protocol.matched]
        for found, matrix, size in zip(both, matrices, sizes[::-1], strict=True)
    ]
    points = [found.keypoints.cpu().numpy().astype(float)[kept] for found, kept in zip(both, shown, strict=True)]
    described = [found.descriptors[torch.from_numpy(kept)] for found, kept in zip(both, shown, strict=True)]
    if not all(map(len, points)):
        return dict.fromkeys(("matching", "nn_map", *(f"homography_{e}" for e in ERRORS)), 0.0) | {"failed": 1.0}
    pairs = match(described[0], described[1], metric=contender.metric).pairs.cpu().numpy()
    there, back = (match(a, b, mutual=False, metric=contender.metric) for a, b in (described, described[::-1]))
    neighbours = there.pairs[:, 1].cpu().numpy(), back.pairs[:, 1].cpu().numpy()
    distances = there.distances.cpu().numpy(), back.distances.cpu().numpy()
    matched = (points[0][pairs[:, 0]], points[1][pairs[:, 1]])
    geometry = estimate(*matched, "homography", threshold=3.0, confidence=0.995, iterations=2000)  # OpenCV's defaults
    error = corner_error(geometry.matrix, homography, sizes[0])
    return {
        "matching": matching_score(points[0], points[1], pairs, homography, sizes, protocol.distance),
        "nn_map": nearest_neighbour_ap(
            points[0],
            points[1],
            neighbours,
            distances,
            homography,
            sizes,
            protocol.distance,
        ),
        **{f"homography_{e}": float(error <= e) for e in ERRORS},
        "failed": float(geometry.matrix is None),
    }


def _size(picture: np.ndarray) -> tuple[int, int]:
    return picture.shape[0], picture.shape[1]
