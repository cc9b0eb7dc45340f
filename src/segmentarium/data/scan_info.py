"""Frames with an info.json as mmdetection3d writes it (from 1.1 on), of KITTI and nuScenes: points, boxes and cameras."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segmentarium.data import kitti, nuscenes
from segmentarium.data.base import DatasetInfo, Transform
from segmentarium.data.clouds import read_points
from segmentarium.data.scans import Camera, Scan, ScanDataset, ScanError
from segmentarium.data.text_files import read_json
from segmentarium.palette import default_palette

CLASSES = {"kitti": kitti.CLASSES, "nuscenes": nuscenes.CLASSES}


class ScanInfo(ScanDataset):
    """The frames that a folder's info.json tells of, whatever the split."""

    items: Sequence[dict[str, Any]]

    def __init__(
        self, root: str | Path, split: str = "all", transform: Transform | None = None, cache: bool = False
    ) -> None:
        path = Path(root) / "info.json"
        if not path.is_file():
            raise FileNotFoundError(f"{root} has no info.json")
        content = read_json(path)
        meta = {key.lower(): value for key, value in content.get("metainfo", {}).items()}
        name = str(meta.get("dataset", "")).lower()
        if name not in CLASSES or "data_list" not in content:
            raise ScanError(f"{path} is of the data set {name!r}; such files of {' and '.join(CLASSES)} are read")
        numbers = (
            meta.get("categories") if name == "nuscenes" else None
        )  # of KITTI all categories are numbered, ours first
        classes = tuple(sorted(numbers, key=numbers.__getitem__)) if numbers else CLASSES[name]
        super().__init__(DatasetInfo(name, classes, default_palette(len(classes) + 1)[1:]), transform, cache)
        self.root, self.items = path.parent, content["data_list"]

    def _load(self, index: int) -> Scan:
        row = self.items[index]
        points = read_points(self.root / row["lidar_points"]["lidar_path"]).columns(("x", "y", "z", "intensity"))
        cameras = []
        lidar_to_camera = np.eye(4)
        for told in row["images"].values():
            if "img_path" not in told:
                continue
            lidar_to_camera = np.array(told.get("lidar2cam", np.eye(4)))
            pixels = np.eye(4)
            inner = np.array(told["cam2img"])
            pixels[: len(inner), : inner.shape[1]] = inner
            matrix = np.array(told["lidar2img"]) if "lidar2img" in told else pixels @ lidar_to_camera
            if (self.root / told["img_path"]).is_file():
                cameras.append(Camera(self.root / told["img_path"], matrix[:3]))
        given = [one for one in row.get("instances", ()) if 0 <= one["bbox_label_3d"] < self.info.num_classes]
        numbers = np.array([one["bbox_3d"] for one in given], np.float64).reshape(-1, 7)
        speeds = np.array([one.get("velocity", (np.nan, np.nan)) for one in given], np.float64).reshape(-1, 2)
        boxes = np.concatenate((numbers, speeds), 1)
        if self.info.name == "kitti":
            boxes = kitti.boxes_in_lidar(numbers, lidar_to_camera)
        pose = np.array(row["ego2global"]) @ np.array(row["lidar_points"]["lidar2ego"]) if "ego2global" in row else None
        labels = np.array([one["bbox_label_3d"] for one in given], np.int64)
        return Scan(
            points, boxes.astype(np.float32), labels, Path(row["lidar_points"]["lidar_path"]).name, pose, None, cameras
        )
