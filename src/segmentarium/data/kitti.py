"""KITTI's 3-D objects: training/{velodyne,label_2,calib,image_2}, and a list of names in ImageSets/SPLIT.txt or SPLIT.txt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segmentarium.data.base import DatasetInfo, Transform, require_folder
from segmentarium.data.clouds import read_points
from segmentarium.data.image_io import picture_shape
from segmentarium.data.scans import Camera, Scan, ScanDataset, ScanError, part_of
from segmentarium.layers.turned_boxes import corners_3d
from segmentarium.palette import default_palette

CLASSES = ("Pedestrian", "Cyclist", "Car")
ALIKE = {"Person_sitting": "Pedestrian", "Van": "Car"}  # whose finding is no mistake
INFO: dict[str, Any] = {"licence": "CC BY-NC-SA 3.0", "url": "https://www.cvlibs.net/datasets/kitti"}
# of easy, moderate, hard: height of the box in the picture, which must be more, greatest occlusion and truncation
LEVELS = ((40, 0, 0.15), (25, 1, 0.3), (25, 2, 0.5))


def boxes_in_lidar(camera_boxes: np.ndarray, camera_from_lidar: np.ndarray) -> np.ndarray:
    """Boxes (M, 7) of the camera's frame, x, y, z of the middle of the floor, length, height, width, angle about y -> ours."""
    x, y, z, length, height, width, angle = camera_boxes.T
    middle = np.stack((x, y - height / 2, z, np.ones_like(x)), 1) @ np.linalg.inv(camera_from_lidar).T
    # the camera's x is the lidar's right, and its y points down
    return np.stack((*middle.T[:3], length, width, height, -angle - np.pi / 2), 1).astype(np.float32)


def read_calibration(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(4, 4) the rectified camera's frame from the lidar's; (3, 4) pixels of the left colour camera from that."""
    table = {}
    for line in path.read_text("utf-8").splitlines():
        name, _, numbers = line.partition(":")
        table[name] = np.array(numbers.split(), np.float64)
    missing = [name for name in ("P2", "R0_rect", "Tr_velo_to_cam") if name not in table]
    if missing:
        raise ScanError(f"{path} lacks {', '.join(missing)}")
    rectified, camera = np.eye(4), np.eye(4)
    rectified[:3, :3] = table["R0_rect"].reshape(3, 3)
    camera[:3] = table["Tr_velo_to_cam"].reshape(3, 4)
    return rectified @ camera, table["P2"].reshape(3, 4)


def _level(words: Sequence[str]) -> int:
    height, hidden, cut = float(words[7]) - float(words[5]), int(words[2]), float(words[1])
    fitting = (i for i, (least, most, share) in enumerate(LEVELS) if height > least and hidden <= most and cut <= share)
    return next(fitting, len(LEVELS))


def in_picture(boxes: np.ndarray, camera: Camera) -> np.ndarray:
    """Boxes (N, 7) in the lidar's frame -> (N, 4) x0, y0, x1, y1 around their corners, cut to the picture; without extent where
    nothing of them is seen."""
    assert camera.size is not None
    shape = corners_3d(torch.from_numpy(boxes[:, :7].astype(np.float64))).numpy()
    seen = np.concatenate((shape, np.ones((*shape.shape[:2], 1))), 2) @ np.asarray(camera.matrix, np.float64)[:3].T
    places = seen[..., :2] / np.maximum(seen[..., 2:], 0.1)
    limit = np.array(camera.size[::-1], np.float64)
    low, high = (places.min(1, initial=np.inf), places.max(1, initial=-np.inf))
    ahead = np.asarray((seen[..., 2] > 0).any(1))[:, None]
    return np.concatenate((np.clip(low, 0, limit), np.where(ahead, np.clip(high, 0, limit), 0)), 1)


def levels_of_found(boxes: np.ndarray, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (N, 7) -> whether anything of each is seen (N,), and the first level that it is high enough for (N,): 3 if for
    none.  At a level a found box that is too low is neither right nor wrong."""
    seen = in_picture(boxes, camera)
    height = seen[:, 3] - seen[:, 1]
    level = np.full(len(boxes), len(LEVELS))
    for i in reversed(range(len(LEVELS))):
        level[height >= LEVELS[i][0]] = i
    shown = np.asarray((seen[:, 2:] > seen[:, :2]).all(1))
    return shown, np.where(shown, level, len(LEVELS))


class Kitti(ScanDataset):
    """KITTI's frames; classes pedestrian, cyclist and car, everything else is left out.  Intensity is 0 to 1."""

    items: Sequence[str]

    def __init__(
        self, root: str | Path, split: str = "train", transform: Transform | None = None, cache: bool = False
    ) -> None:
        super().__init__(DatasetInfo("kitti", CLASSES, default_palette(4)[1:], **INFO), transform, cache)
        self.root = Path(root)
        inner = self.root / "training" if (self.root / "training").is_dir() else self.root
        self.folder = require_folder(inner / "velodyne", "KITTI's points, NAME.bin").parent
        self.items = part_of(self.root, split, sorted(path.stem for path in (self.folder / "velodyne").glob("*.bin")))

    def _load(self, index: int) -> Scan:
        name = self.items[index]
        points = read_points(self.folder / "velodyne" / f"{name}.bin").values
        camera, pixels = read_calibration(self.folder / "calib" / f"{name}.txt")
        rows = [line.split() for line in (self.folder / "label_2" / f"{name}.txt").read_text("utf-8").splitlines()]
        others = [words for words in rows if words and words[0] in ALIKE]
        rows = [words for words in rows if words and words[0] in CLASSES]
        boxes, alike = (
            # type, cut, hidden, angle, box in the picture (4), height, width, length, x, y, z, angle about y
            boxes_in_lidar(
                np.array([[float(words[i]) for i in (11, 12, 13, 10, 8, 9, 14)] for words in part]).reshape(-1, 7),
                camera,
            )
            for part in (rows, others)
        )
        labels = np.array([CLASSES.index(ALIKE[words[0]]) for words in others], np.float32)
        picture = next((p for s in (".png", ".jpg") if (p := self.folder / "image_2" / f"{name}{s}").is_file()), None)
        cameras = []
        if picture is not None:
            width, height = picture_shape(picture)
            cameras = [Camera(picture, pixels @ camera, (height, width))]
        return Scan(
            points,
            boxes,
            np.array([CLASSES.index(words[0]) for words in rows], np.int64),
            name,
            cameras=cameras,
            levels=np.array([_level(words) for words in rows], np.int64),
            alike=np.concatenate((alike, labels[:, None]), 1),
        )
