"""nuScenes: v1.0-VERSION/*.json, samples/, sweeps/, and the map expansion's maps/expansion/*.json where it is there.

A split is a list of scenes, SPLIT.txt beside the tables, since the tables do not say; without one, `mini_train` and `mini_val` of
v1.0-mini are known.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from segmentarium.data.base import DatasetInfo, Transform, require_folder
from segmentarium.data.clouds import read_points
from segmentarium.data.hd_map import PlaceMap, nuscenes_map
from segmentarium.data.poses import Sweep, aggregate, moved, moved_boxes, pose_matrix
from segmentarium.data.scans import Camera, Scan, ScanDataset
from segmentarium.data.text_files import read_json
from segmentarium.palette import default_palette

# the ten classes of detection, and whose categories they are
CATEGORIES = {
    "car": ("vehicle.car",),
    "truck": ("vehicle.truck",),
    "construction_vehicle": ("vehicle.construction",),
    "bus": ("vehicle.bus.bendy", "vehicle.bus.rigid"),
    "trailer": ("vehicle.trailer",),
    "barrier": ("movable_object.barrier",),
    "motorcycle": ("vehicle.motorcycle",),
    "bicycle": ("vehicle.bicycle",),
    "pedestrian": tuple(
        f"human.pedestrian.{who}" for who in ("adult", "child", "construction_worker", "police_officer")
    ),
    "traffic_cone": ("movable_object.trafficcone",),
}
CLASSES = tuple(CATEGORIES)
LABEL = {category: i for i, categories in enumerate(CATEGORIES.values()) for category in categories}
ATTRIBUTES = (
    "vehicle.moving", "vehicle.stopped", "vehicle.parked", "cycle.with_rider", "cycle.without_rider", "pedestrian.moving",
    "pedestrian.standing", "pedestrian.sitting_lying_down",
)  # fmt: skip
# metres from the vehicle within which nuScenes' scores count a class
REACH = {
    "car": 50.0, "truck": 50.0, "bus": 50.0, "trailer": 50.0, "construction_vehicle": 50.0, "pedestrian": 40.0,
    "motorcycle": 40.0, "bicycle": 40.0, "traffic_cone": 30.0, "barrier": 30.0,
}  # fmt: skip
MOVING = 0.2  # metres a second
# of a class what is the case most often, as mmdetection3d and CenterPoint say it of what they find
LIKELY = {
    "car": "vehicle.parked", "truck": "vehicle.parked", "trailer": "vehicle.parked", "construction_vehicle": "vehicle.parked",
    "bus": "vehicle.moving", "motorcycle": "cycle.without_rider", "bicycle": "cycle.without_rider",
    "pedestrian": "pedestrian.moving",
}  # fmt: skip
MINI_VAL = ("scene-0103", "scene-0916")
SPLITS = ("train", "val", "test", "mini_train", "mini_val", "all")
INFO: dict[str, Any] = {"licence": "CC BY-NC-SA 4.0", "url": "https://www.nuscenes.org"}
NEAR = 1.5  # seconds within which a speed is measured


def likely_attribute(name: str, speed: float) -> int:
    """What an object of a class that is this fast, in metres a second, likely does: an index in `ATTRIBUTES`, -1 for classes that
    do nothing.  Detectors do not see it; so published scores have been made."""
    if name not in LIKELY:
        return -1
    likely = LIKELY[name]
    if speed > MOVING:
        likely = {"vehicle": "vehicle.moving", "cycle": "cycle.with_rider"}.get(likely.partition(".")[0], likely)
    else:
        likely = {"pedestrian": "pedestrian.standing", "bus": "vehicle.stopped"}.get(name, likely)
    return ATTRIBUTES.index(likely)


class NuScenes(ScanDataset):
    """Keyframes of nuScenes, in the lidar's frame; intensity is 0 to 255 as in the files.

    sweeps   of each scan: ten is usual; the last column says how many seconds ago
    """

    items: Sequence[str]
    reach = REACH

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        transform: Transform | None = None,
        cache: bool = False,
        sweeps: int = 1,
        version: str | None = None,
    ) -> None:
        super().__init__(
            DatasetInfo("nuscenes", CLASSES, default_palette(len(CLASSES) + 1)[1:], **INFO), transform, cache
        )
        if sweeps < 1:
            raise ValueError(f"sweeps is {sweeps}; give 1 or more")
        self.root, self.sweeps = require_folder(Path(root), "v1.0-…/*.json and samples/"), sweeps
        known = sorted(path.name for path in self.root.glob("v1.0-*") if path.is_dir())
        if version is None and len(known) != 1:
            raise FileNotFoundError(
                f"{self.root} holds {', '.join(known) or 'no folder v1.0-…'}; say which by version=…"
            )
        self.tables = require_folder(self.root / (version or known[0]), "nuScenes' tables, sample.json and others")
        scenes = {row["name"]: row for row in self._rows("scene")}
        wanted = self._scenes(split, list(scenes))
        samples = {row["token"]: row for row in self._rows("sample")}
        tokens = []
        for name in wanted:
            token = scenes[name]["first_sample_token"]
            while token:
                tokens.append(token)
                token = samples[token]["next"]
        self._samples, self.items = samples, tokens
        self._scene = {scenes[name]["token"]: scenes[name] for name in wanted}
        self._data: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in self._rows("sample_data"):
            if row["is_key_frame"]:
                self._data[row["sample_token"]].append(row)
        self._annotations: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in self._rows("sample_annotation"):
            self._annotations[row["sample_token"]].append(row)
        categories = {row["token"]: row["name"] for row in self._rows("category")}
        self._category = {row["token"]: categories[row["category_token"]] for row in self._rows("instance")}
        known_attributes = (self.tables / "attribute.json").is_file()
        self._attribute = (
            {row["token"]: ATTRIBUTES.index(row["name"]) for row in self._rows("attribute")}
            if known_attributes
            else None
        )
        self._places: dict[str, PlaceMap | None] = {}

    def _rows(self, name: str) -> list[dict[str, Any]]:
        path = self.tables / f"{name}.json"
        if not path.is_file():
            raise FileNotFoundError(f"{self.tables} has no {name}.json")
        return read_json(path)

    @cache  # noqa: B019 - lives as long as the data set does
    def _table(self, name: str) -> dict[str, dict[str, Any]]:
        return {row["token"]: row for row in self._rows(name)}

    def _scenes(self, split: str, names: list[str]) -> list[str]:
        path = next((p for p in (self.tables / f"{split}.txt", self.root / f"{split}.txt") if p.is_file()), None)
        if path is not None:
            return [name for name in path.read_text("utf-8").split() if name in names]
        if split == "all":
            return names
        if split in ("mini_train", "mini_val"):
            return [name for name in names if (name in MINI_VAL) == (split == "mini_val")]
        raise FileNotFoundError(
            f"the tables do not say which scenes are {split!r}: write their names into {self.root / f'{split}.txt'}, or give "
            "split 'all', or of v1.0-mini mini_train or mini_val"
        )

    def _pose(self, row: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """Of a reading: (4, 4) the place from the vehicle, and the vehicle from the sensor."""
        ego, sensor = (
            self._table("ego_pose")[row["ego_pose_token"]],
            self._table("calibrated_sensor")[row["calibrated_sensor_token"]],
        )
        return pose_matrix(ego["rotation"], ego["translation"]), pose_matrix(sensor["rotation"], sensor["translation"])

    def _turn(self, row: dict[str, Any]) -> Sweep:
        place, vehicle = self._pose(row)
        points = read_points(self.root / row["filename"]).columns(("x", "y", "z", "intensity"))
        return Sweep(points, place @ vehicle, row["timestamp"] / 1e6)

    def _speed(self, row: dict[str, Any]) -> np.ndarray:
        """Along x, y of the place, between the readings before and after; not a number where they are missing or far."""
        table = self._table("sample_annotation")
        before, after = (table.get(row[key]) or row for key in ("prev", "next"))
        seconds = [self._samples[r["sample_token"]]["timestamp"] / 1e6 for r in (before, after)]
        passed = seconds[1] - seconds[0]
        if not 0 < passed <= (NEAR * 2 if before is not row and after is not row else NEAR):
            return np.full(2, np.nan)
        return (np.array(after["translation"]) - np.array(before["translation"]))[:2] / passed

    def _load(self, index: int) -> Scan:
        token = self.items[index]
        rows = {row["filename"].split("/")[1]: row for row in self._data[token]}
        lidar = rows["LIDAR_TOP"]
        turns, row = [self._turn(lidar)], lidar
        while len(turns) < self.sweeps and row["prev"]:
            row = self._table("sample_data")[row["prev"]]
            turns.append(self._turn(row))
        found = [a for a in self._annotations[token] if self._category[a["instance_token"]] in LABEL]
        numbers = [
            (*a["translation"], a["size"][1], a["size"][0], a["size"][2], _heading(a["rotation"]), *self._speed(a))
            for a in found
        ]
        pose = turns[0].pose
        assert pose is not None
        boxes = moved_boxes(np.array(numbers).reshape(-1, 9), np.linalg.inv(pose))
        centre = moved(self._pose(lidar)[0][None, :3, 3], np.linalg.inv(pose))[0]
        cameras = [self._camera(row, pose) for name, row in rows.items() if name == "CAM_FRONT"]
        return Scan(
            aggregate(turns) if self.sweeps > 1 else turns[0].points,
            boxes.astype(np.float32),
            np.array([LABEL[self._category[a["instance_token"]]] for a in found], np.int64),
            Path(lidar["filename"]).name.removesuffix(".pcd.bin"),
            pose,
            self._place(token),
            cameras,
            counted=np.array([a["num_lidar_pts"] + a["num_radar_pts"] > 0 for a in found], bool),
            attributes=self._attributes(found),
            centre=(float(centre[0]), float(centre[1])),
        )

    def _attributes(self, rows: Sequence[dict[str, Any]]) -> np.ndarray | None:
        if self._attribute is None:
            return None
        tokens = [row.get("attribute_tokens") for row in rows]  # of an object one, or none
        return np.array([self._attribute[given[0]] if given else -1 for given in tokens], np.int64)

    def _camera(self, row: dict[str, Any], pose: np.ndarray) -> Camera:
        place, vehicle = self._pose(row)
        intrinsic = np.array(self._table("calibrated_sensor")[row["calibrated_sensor_token"]]["camera_intrinsic"])
        return Camera(self.root / row["filename"], intrinsic @ (np.linalg.inv(place @ vehicle) @ pose)[:3])

    def _place(self, token: str) -> PlaceMap | None:
        scene = self._scene[self._samples[token]["scene_token"]]
        name = self._table("log")[scene["log_token"]]["location"]
        if name not in self._places:
            path = self.root / "maps" / "expansion" / f"{name}.json"
            self._places[name] = nuscenes_map(path) if path.is_file() else None
        return self._places[name]


def _heading(rotation: Sequence[float]) -> float:
    forward = moved(np.array([[1.0, 0, 0]]), pose_matrix(rotation, (0, 0, 0)))[0]
    return float(np.arctan2(forward[1], forward[0]))
