"""Argoverse 2's sensor data set: logs with sweeps, boxes, poses and the map of the place.

    SPLIT/LOG/sensors/lidar/TIME.feather, annotations.feather, city_SE3_egovehicle.feather, map/

A log's tables may as well be .npz or .json of the same columns, its sweeps sweep_TIME.npz (xyz, intensity, …), its poses
poses.npz (timestamp_ns, qwxyz, t_xyz).  The frame is the vehicle's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from segmentarium.data.base import DatasetInfo, Transform, require_folder
from segmentarium.data.clouds import read_points
from segmentarium.data.hd_map import PlaceMap, argoverse_map
from segmentarium.data.poses import Sweep, aggregate, pose_matrix
from segmentarium.data.scans import Scan, ScanDataset, ScanError
from segmentarium.data.tables import find_table, read_table
from segmentarium.palette import default_palette

CLASSES = (
    "ANIMAL", "ARTICULATED_BUS", "BICYCLE", "BICYCLIST", "BOLLARD", "BOX_TRUCK", "BUS", "CONSTRUCTION_BARREL",
    "CONSTRUCTION_CONE", "DOG", "LARGE_VEHICLE", "MESSAGE_BOARD_TRAILER", "MOBILE_PEDESTRIAN_CROSSING_SIGN", "MOTORCYCLE",
    "MOTORCYCLIST", "OFFICIAL_SIGNALER", "PEDESTRIAN", "RAILED_VEHICLE", "REGULAR_VEHICLE", "SCHOOL_BUS", "SIGN", "STOP_SIGN",
    "STROLLER", "TRAFFIC_LIGHT_TRAILER", "TRUCK", "TRUCK_CAB", "VEHICULAR_TRAILER", "WHEELCHAIR", "WHEELED_DEVICE",
    "WHEELED_RIDER",
)  # fmt: skip
INFO: dict[str, Any] = {"licence": "CC BY-NC-SA 4.0", "url": "https://www.argoverse.org/av2.html"}


class Item(NamedTuple):
    """A sweep of a log: its number among the log's, by time."""

    log: Path
    number: int


class Log:
    """What one drive has: sweeps by time, boxes of each, poses, the map, each read when it is asked for.

    place   None where there is no map of it
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        inner = folder / "sensors" / "lidar"
        sweeps = [*inner.glob("*.feather"), *folder.glob("sweep_*.npz")]
        self.sweeps = dict(sorted((int(path.stem.removeprefix("sweep_")), path) for path in sweeps))
        self.times = list(self.sweeps)
        self._boxes: dict[str, np.ndarray] | None = None
        self._poses: dict[int, np.ndarray] | None = None
        self._place: tuple[PlaceMap | None] | None = None

    def boxes(self, time: int, classes: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Boxes (M, 7), labels (M,) and whether they hold points (M,), at a sweep's time."""
        if self._boxes is None:
            self._boxes = read_table(find_table(self.folder, "annotations"))
        table = self._boxes
        unknown = sorted(set(table["category"].tolist()) - set(CLASSES))
        if unknown:
            raise ScanError(f"{self.folder}: annotations have the category {unknown[0]!r}, which Argoverse 2 has not")
        here = (table["timestamp_ns"] == time) & np.isin(table["category"], classes)
        numbers = [table[name][here] for name in ("tx_m", "ty_m", "tz_m", "length_m", "width_m", "height_m")]
        w, x, y, z = (table[name][here].astype(np.float64) for name in ("qw", "qx", "qy", "qz"))
        angle = np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
        labels = np.array([classes.index(name) for name in table["category"][here]], np.int64)
        return np.stack((*numbers, angle), 1).astype(np.float32), labels, table["num_interior_pts"][here] > 0

    def pose(self, time: int) -> np.ndarray | None:
        """The place's coordinates from the vehicle's; None where there is none of that time."""
        if self._poses is None:
            try:
                official = (self.folder / "city_SE3_egovehicle.feather").is_file()
                table = read_table(find_table(self.folder, "city_SE3_egovehicle" if official else "poses"))
            except FileNotFoundError:
                table = {"timestamp_ns": np.zeros(0, np.int64)}
            turns = table.get("qwxyz")
            if turns is None and len(table["timestamp_ns"]):
                turns = np.stack([table[name] for name in ("qw", "qx", "qy", "qz")], 1)
                table["t_xyz"] = np.stack([table[name] for name in ("tx_m", "ty_m", "tz_m")], 1)
            self._poses = {
                int(stamp): pose_matrix(turns[i], table["t_xyz"][i])  # type: ignore[index]
                for i, stamp in enumerate(table["timestamp_ns"])
            }
        return self._poses.get(time)

    @property
    def place(self) -> PlaceMap | None:
        if self._place is None:
            folder = self.folder / "map"
            self._place = (argoverse_map(folder) if folder.is_dir() else None,)
        return self._place[0]


class Argoverse2(ScanDataset):
    """Sweeps of Argoverse 2; intensity is 0 to 1.

    sweeps    of each scan: so many before it are laid over it, with a last column that says how many seconds ago
    classes   those that are wanted; None: all 30
    """

    items: Sequence[Item]

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        transform: Transform | None = None,
        cache: bool = False,
        sweeps: int = 1,
        classes: Sequence[str] | None = None,
    ) -> None:
        wanted = (classes,) if isinstance(classes, str) else tuple(classes or CLASSES)
        unknown = [name for name in wanted if name not in CLASSES]
        if unknown:
            raise ValueError(f"{', '.join(unknown)} is no class of Argoverse 2; give some of {', '.join(CLASSES)}")
        super().__init__(
            DatasetInfo("argoverse2", wanted, default_palette(len(wanted) + 1)[1:], **INFO), transform, cache
        )
        if sweeps < 1:
            raise ValueError(f"sweeps is {sweeps}; give 1 or more")
        root = require_folder(Path(root), "logs of Argoverse 2")
        inner = root / split if split != "all" and (root / split).is_dir() else root
        self.sweeps, self.logs = sweeps, {}
        for folder in (inner, *sorted(path for path in inner.iterdir() if path.is_dir())):
            log = Log(folder)
            if log.times:
                self.logs[folder] = log
        if not self.logs:
            raise FileNotFoundError(f"{inner} holds no log: no sensors/lidar/TIME.feather and no sweep_TIME.npz")
        self.items = [Item(folder, number) for folder, log in self.logs.items() for number in range(len(log.times))]

    def _load(self, index: int) -> Scan:
        item = self.items[index]
        log = self.logs[item.log]
        time = log.times[item.number]
        earlier = range(item.number, max(item.number - self.sweeps, -1), -1)
        turns = [
            Sweep(self._points(log.sweeps[log.times[i]]), log.pose(log.times[i]), log.times[i] / 1e9) for i in earlier
        ]
        boxes, labels, counted = log.boxes(time, self.info.classes)
        points = aggregate(turns) if self.sweeps > 1 else turns[0].points
        return Scan(points, boxes, labels, f"{item.log.name}/{time}", turns[0].pose, log.place, counted=counted)

    @staticmethod
    def _points(path: Path) -> np.ndarray:
        values = read_points(path).columns(("x", "y", "z", "intensity"))
        values[:, 3] /= 255
        return values
