"""Scans of your own: a folder with one .npz a scan.

    classes.txt           a name a line
    scans/NAME.npz        points (N, F): x, y, z, …; boxes (M, 7 or 9); labels (M,), numbers or names; and, where known,
                          pose (4, 4): the place's coordinates from the lidar's
    map/                  the map of the place, as Argoverse 2 or nuScenes have it, where there is one
    train.txt, val.txt    names of each split

What has frames as arrays, such as Waymo's after conversion, is laid out so.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from segmentarium.data.base import DatasetInfo, Transform, require_folder
from segmentarium.data.clouds import PointReadError
from segmentarium.data.hd_map import PlaceMap, argoverse_map, nuscenes_map
from segmentarium.data.scans import Scan, ScanDataset, ScanError, part_of
from segmentarium.palette import default_palette


def place_map(folder: Path) -> PlaceMap | None:
    """The map that lies in a folder: Argoverse 2's or nuScenes'; None without a folder.  FileNotFoundError: it is empty."""
    if not folder.is_dir():
        return None
    if any(folder.glob("log_map_archive_*.json")):
        return argoverse_map(folder)
    path = next(iter(sorted(folder.glob("*.json"))), None)
    if path is None:
        raise FileNotFoundError(
            f"{folder} holds no map: no log_map_archive_*.json and no JSON of nuScenes' map expansion"
        )
    return nuscenes_map(path)


class LidarFolder(ScanDataset):
    """Scans of a folder.  Raises FileNotFoundError for another layout, ScanError for arrays that do not fit."""

    items: Sequence[str]

    def __init__(
        self, root: str | Path, split: str = "train", transform: Transform | None = None, cache: bool = False
    ) -> None:
        self.root = require_folder(Path(root), "classes.txt, scans/NAME.npz and SPLIT.txt")
        if not (self.root / "classes.txt").is_file():
            raise FileNotFoundError(f"{self.root} has no classes.txt with a class's name a line")
        classes = tuple(filter(None, map(str.strip, (self.root / "classes.txt").read_text("utf-8").splitlines())))
        super().__init__(
            DatasetInfo(self.root.resolve().name, classes, default_palette(len(classes) + 1)[1:], licence="your own"),
            transform,
            cache,
        )
        names = sorted(path.stem for path in require_folder(self.root / "scans", "NAME.npz").glob("*.npz"))
        self.items = part_of(self.root, split, names)
        self.place = place_map(self.root / "map")

    def _load(self, index: int) -> Scan:
        name = self.items[index]
        return read_scan(self.root / "scans" / f"{name}.npz", self.info.classes, self.place)


def read_scan(path: Path, classes: Sequence[str], place: PlaceMap | None = None) -> Scan:
    """A scan's .npz; without boxes it has none."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            given = dict(arrays)
    except (ValueError, OSError, EOFError) as error:
        raise PointReadError(f"{path} cannot be read: {error}") from error
    if "points" not in given:
        raise ScanError(f"{path} has {', '.join(given) or 'nothing'}, and no array 'points'")
    boxes = given.get("boxes", np.zeros((0, 7))).astype(np.float32)
    labels = given.get("labels", np.zeros(0, np.int64))
    if labels.dtype.kind in "US":
        unknown = sorted(set(labels.tolist()) - set(classes))
        if unknown:
            raise ScanError(f"{path} has a box of {unknown[0]!r}, which classes.txt does not name")
        labels = np.array([classes.index(name) for name in labels.tolist()], np.int64)
    return Scan(given["points"].astype(np.float32), boxes, labels.astype(np.int64), path.stem, given.get("pose"), place)
