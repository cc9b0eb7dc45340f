"""`match_pictures`: two pictures' points matched, what relates them, and a picture of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segmentarium.files import atomic_write, check_targets
from segmentarium.inference.point_drawing import draw_matches
from segmentarium.inference.points import FoundPoints
from segmentarium.matching.geometry import Geometry, Kind, estimate
from segmentarium.matching.neighbours import match
from segmentarium.media.showing import Shown

KINDS = ("overlay", "json")


@dataclass(repr=False)
class PictureMatch(Shown):
    """Two pictures, whose points are whose, and what maps the first to the second.

    pairs      (K, 2) int64: indices into both pictures' points;  distances (K,) of their descriptors
    geometry   with `inliers` (K,): which of them agree; where there is none it says why
    """

    first: FoundPoints
    second: FoundPoints
    pairs: np.ndarray
    distances: np.ndarray
    geometry: Geometry

    def told(self) -> str:
        return f"{self.name!r}, {len(self.pairs)} matches, {int(self.geometry.inliers.sum())} of them agree"

    @property
    def name(self) -> str:
        return f"{self.first.name}-{Path(self.second.name).name}"

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

    def save(
        self, folder: str | Path, kinds: Sequence[str] = KINDS, *, name: str | None = None, overwrite: bool = False
    ) -> list[Path]:
        """Writes NAME_matches.png and NAME.json into `folder`, each whole or not at all."""
        if isinstance(kinds, str) or not kinds or set(kinds) - set(KINDS):
            raise ValueError(f"kinds: {kinds!r}; give some of {', '.join(KINDS)}")
        stem = name or self.name
        paths = {k: Path(folder) / f"{stem}{'_matches.png' if k == 'overlay' else '.json'}" for k in kinds}
        check_targets(paths.values(), [self.first.path, self.second.path], overwrite=overwrite)
        for kind, path in paths.items():
            with atomic_write(path) as temporary:
                if kind == "overlay":
                    self.overlay.save(temporary, format="PNG", compress_level=3)
                else:
                    temporary.write_text(json.dumps(self.as_dict(), indent=1), encoding="utf-8")
        return list(paths.values())


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
