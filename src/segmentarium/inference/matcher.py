"""`match_pictures`: two pictures' points matched, what relates them, and a picture of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from segmentarium.inference.point_drawing import draw_matches
from segmentarium.inference.point_files import PointResult
from segmentarium.inference.points import FoundPoints
from segmentarium.matching.geometry import Geometry, Kind, estimate
from segmentarium.matching.neighbours import match


@dataclass(repr=False)
class PictureMatch(PointResult):
    """Two pictures, whose points are whose, and what maps the first to the second.

    pairs      (K, 2) int64: indices into both pictures' points;  distances (K,) of their descriptors
    geometry   with `inliers` (K,): which of them agree; where there is none it says why
    """

    endings: ClassVar = {"overlay": "_matches.png", "json": ".json"}

    first: FoundPoints
    second: FoundPoints
    pairs: np.ndarray
    distances: np.ndarray
    geometry: Geometry

    def told(self) -> str:
        return f"{self.name!r}, {len(self.pairs)} matches, {int(self.geometry.inliers.sum())} of them agree"

    @property
    def name(self) -> str:
        return name_of(self.first.name, self.second.name)

    @property
    def points(self) -> tuple[np.ndarray, np.ndarray]:
        """(K, 2) x, y of the matched points in either picture."""
        both = (self.first, self.second)
        first, second = (
            found.keypoints.keypoints.numpy()[self.pairs[:, i]].reshape(-1, 2) for i, found in enumerate(both)
        )
        return first, second

    @property
    def overlay(self) -> Image.Image:
        """Both side by side, lines between matched points: green where they agree with the geometry, else red."""
        return Image.fromarray(draw_matches(self.first.image, self.second.image, self.points, self.geometry.inliers))

    def as_dict(self) -> dict[str, Any]:
        """What the JSON file holds."""
        first, second = (points.round(3).tolist() for points in self.points)
        return {
            "first": _told(self.first),
            "second": _told(self.second),
            "matches": len(self.pairs),
            "geometry": self.geometry.as_dict(),
            "pairs": [
                {"first": a, "second": b, "distance": round(float(d), 5), "inlier": bool(i)}
                for a, b, d, i in zip(first, second, self.distances, self.geometry.inliers, strict=True)
            ],
        }

    def made_of(self) -> tuple[Path | None, ...]:
        return self.first.path, self.second.path


def name_of(first: str, second: str) -> str:
    """What the match of two pictures is called, in the first one's folder."""
    return f"{first}-{Path(second).name}"


def _told(found: FoundPoints) -> dict[str, Any]:
    height, width = found.image.shape[:2]
    source = str(found.path) if found.path else None
    return {
        "name": found.name,
        "source": source,
        "width": width,
        "height": height,
        "count": len(found.keypoints),
        **found.facts,
    }


def match_pictures(
    first: FoundPoints,
    second: FoundPoints,
    *,
    ratio: float | None = None,
    distance: float | None = None,
    kind: Kind = "homography",
    method: str = "magsac",
    threshold: float = 3.0,
    cameras: tuple[np.ndarray, np.ndarray] | None = None,
) -> PictureMatch:
    """The points of two pictures, as `KeypointFinder` gives them -> mutual nearest neighbours, and what relates the pictures.

    ratio, distance   of `matching.neighbours.match`
    kind, method, threshold, cameras   of `matching.geometry.estimate`

    Pictures that have nothing in common give a result whose geometry says why there is none.
    """
    described = [found.keypoints.descriptors for found in (first, second)]
    found = match(*described, ratio=ratio, distance=distance)
    pairs = found.pairs.cpu().numpy()
    points = [side.keypoints.keypoints.numpy()[pairs[:, i]] for i, side in enumerate((first, second))]
    geometry = estimate(points[0], points[1], kind, method=method, threshold=threshold, cameras=cameras)
    return PictureMatch(first, second, pairs, found.distances.cpu().numpy(), geometry)
