"""HPatches' protocol for any detector: repeatability and localisation at one size, matching and homographies at another.

Of learnt and classical detectors alike, in one run on the same pictures.
"""

from __future__ import annotations

import copy
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from segmentarium.contracts import KeypointModel, Keypoints
from segmentarium.data.homographies import warp_points
from segmentarium.data.hpatches import HPatches
from segmentarium.evaluation.base import Measured, number
from segmentarium.evaluation.facts import facts_of, trained_on_warning
from segmentarium.inference.points import KeypointFinder
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
)

Detector = Callable[[np.ndarray], Keypoints]  # of a grey picture (H, W) uint8
ERRORS = (1, 3, 5)  # pixels of the corners
COLUMNS = (  # of a table: the score, and its head
    ("repeatability", "repeatability"),
    ("localisation", "localisation (px)"),
    ("matching", "matching score"),
    ("nn_map", "NN-mAP"),
    *((f"homography_{error}", f"H, {error} px" if error == ERRORS[0] else f"{error} px") for error in ERRORS),
    ("failed", "none found"),
)
SCORES = tuple(name for name, _ in COLUMNS)


@dataclass(frozen=True)
class Contender:
    """A detector: at the size of repeatability, with its radius of suppression, and at that of matching.

    metric   of its descriptors; None: it has none, and is not matched
    finder   of a network: what runs it
    """

    detect: Detector
    describe: Detector | None = None
    metric: Literal["l2", "hamming"] | None = None
    finder: KeypointFinder | None = None


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


@dataclass(kw_only=True, repr=False)
class PairReport(Measured):
    """Scores of key points on pairs of pictures; shares in 0..1, localisation in pixels, NaN where nothing was to be scored.

    detector   whose scores these are, among those of `found`
    found      a row for each detector and kind of change (`evaluate_keypoints`)
    """

    heading = "Detectors"

    detector: str
    found: list[dict[str, Any]]

    def of(self, change: str = "all") -> dict[str, float]:
        """The detector's scores of a kind of change."""
        row = next(row for row in self.found if row["detector"] == self.detector and row["change"] == change)
        return {name: row[name] for name in SCORES}

    def scores(self) -> dict[str, Any]:
        rows = [{key: number(v) if isinstance(v, float) else v for key, v in row.items()} for row in self.found]
        return {**{name: number(value) for name, value in self.of().items()}, "images": self.images, "detectors": rows}

    def headline(self) -> list[tuple[str, str]]:
        """Shares as such, 0..1, as the field prints them."""
        names = {"repeatability": "repeatability", "localisation": "localisation (px)", "matching": "matching score"}
        names |= {f"homography_{error}": f"H at {error} px" for error in ERRORS}
        scores = self.of()
        return [(name, cell(scores[key])) for key, name in names.items()]

    def columns(self) -> tuple[str, ...]:
        return ("detector", "change", "pairs", *(head for _, head in COLUMNS))

    def rows(self) -> list[tuple[str, ...]]:
        return [
            (row["detector"], row["change"], str(row["pairs"]), *(cell(row[name]) for name in SCORES))
            for row in self.found
        ]

    def images_line(self) -> str:
        return f"{self.images} pairs of pictures"


def cell(value: float) -> str:
    """A score of a table; a dash for one that does not exist."""
    return "–" if value != value else f"{value:.3f}"


def learnt(
    model: KeypointModel, protocol: Protocol, *, threshold: float = 0.0, subpixel: bool = False, **engine: Any
) -> Contender:
    """A network as a contender.  Its best points are taken whatever their scores, as so many of the classical ones are.

    engine   engine, precision and device of `KeypointFinder`
    """
    # more than are compared, since those that the other picture does not show are left out
    finder = KeypointFinder(
        model, count=4 * protocol.count, radius=protocol.radius, threshold=threshold, subpixel=subpixel, **engine
    )
    larger = copy.copy(finder)  # the same network
    larger.count, larger.options = 2 * protocol.matched, {**finder.options, "radius": protocol.matched_radius}

    def through(finder: KeypointFinder) -> Detector:
        return lambda grey: finder.find(grey[..., None])

    return Contender(through(finder), through(larger), "l2", finder)


def classical(name: str, protocol: Protocol) -> Contender:
    """One of OpenCV's."""
    detector = ClassicalDetector(name, 4 * protocol.count, protocol.radius)
    if detector.metric is None:
        return Contender(detector)
    described = ClassicalDetector(name, 2 * protocol.matched, protocol.matched_radius)
    return Contender(detector, described, detector.metric)


def evaluate_keypoints(
    contenders: Mapping[str, Contender],
    roots: str | Path | Sequence[str | Path],
    protocol: Protocol | None = None,
    *,
    limit: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Name -> detector, on all pairs of the sequences: a row for each detector and kind of change, "all" among them.

    repeatability, localisation        at `protocol.small`
    matching, nn_map, homography_1, …  at `protocol.large`; NaN of detectors without descriptors
    failed                             share of pairs without any homography

    limit   stops after so many pairs
    """
    protocol = protocol or Protocol()
    small, large = HPatches(roots, size=protocol.small), HPatches(roots, size=protocol.large)
    pairs = small.items[:limit]
    found: dict[tuple[str, str], list[dict[str, float]]] = defaultdict(list)
    for index, pair in enumerate(pairs):
        shrunk, whole = small.load(index), large.load(index)
        for name, contender in contenders.items():
            scores = _repeated(contender, shrunk, protocol)
            if contender.describe is not None:
                scores |= _matched(contender, whole, protocol)
            for change in (pair.change, "all"):
                found[name, change].append(scores)
        if progress:
            progress(index + 1, len(pairs))
    return [
        {"detector": name, "change": change, "pairs": len(rows), **_mean(rows)}
        for (name, change), rows in sorted(found.items(), key=lambda item: (item[0][1] != "all", item[0][1]))
    ]


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
    values = {name: np.array([row.get(name, np.nan) for row in rows], float) for name in SCORES}
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
        np.flatnonzero(inside(warp_points(found.keypoints.cpu().numpy().astype(float), matrix), size))[
            : protocol.matched
        ]
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


def evaluate_pairs(
    model: KeypointModel,
    dataset: Any,
    source: str,
    runs: dict[str, Any],
    beside: Sequence[str],
    limit: int | None,
    progress: Callable[[int, int], None] | None,
) -> PairReport:
    """`evaluate` of a network of points; runs: engine, precision and device, beside: names of OpenCV's.

    Raises TypeError for data without homographies.
    """
    if not isinstance(dataset, HPatches):
        raise TypeError(f"{source} finds points, which are scored on pairs of pictures; give hpatches")
    started, sizes = time.perf_counter(), Protocol()
    ours = learnt(model, sizes, **runs)
    contenders = {source: ours} | {name: classical(name, sizes) for name in beside}
    rows = evaluate_keypoints(contenders, dataset.roots, sizes, limit=limit, progress=progress)
    assert ours.finder is not None
    network = ours.finder.network
    protocol = (
        f"repeatability at {sizes.small[0]}×{sizes.small[1]} with {sizes.count} points, matching and homographies at "
        f"{sizes.large[0]}×{sizes.large[1]} with {sizes.matched}"
    )
    return PairReport(
        **facts_of(network, source, dataset, {"protocol": protocol, "limit": limit}, started),
        images=rows[0]["pairs"],
        model_seconds=network.seconds,
        detector=source,
        found=rows,
        notes=list(dataset.notes),
        warning=trained_on_warning(model.weights_header, dataset),
    )
