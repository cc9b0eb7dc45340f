"""What every set of lidar scans here promises, whatever its files: points, boxes and where the lidar stood."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from segmentarium.data.base import DatasetInfo, Sample, Transform, apply_transform
from segmentarium.data.hd_map import PlaceMap

FAR = 1e6  # metres: where points stand that only fill up a batch
NO_BOX = -1.0


class ScanError(ValueError):
    """A scan, or what lies beside it, is not as its data set promises."""


@dataclass(frozen=True)
class Camera:
    """A picture, the (3, 4) matrix that takes x, y, z, 1 in the lidar's frame to pixels times depth, and, where it is read, the
    picture's (height, width)."""

    path: Path
    matrix: np.ndarray
    size: tuple[int, int] | None = None


@dataclass
class Scan:
    """One scan.

    points      (N, F) float32: x, y, z in metres in the lidar's frame, and further values
    boxes       (M, 7) float32: x, y, z of the centre, length, width, height, angle; or (M, 9), with speeds along x and y
    labels      (M,) int64
    pose        (4, 4): the place's coordinates from the lidar's; None: unknown
    place       the map; None: there is none
    counted     (M,) bool: boxes that a score counts, such as those with points inside; None: all
    levels      (M,) of KITTI: 0 easy, 1 moderate, 2 hard, 3 none of them; None elsewhere
    alike       (A, 8) boxes and labels: what is none of the classes, and so like one that finding it is no mistake (KITTI)
    attributes  (M,) of nuScenes: the index in `data.nuscenes.ATTRIBUTES`, -1: it has none; None elsewhere
    centre      x, y of the vehicle's origin, from which nuScenes' scores count distances
    """

    points: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    name: str = ""
    pose: np.ndarray | None = None
    place: PlaceMap | None = None
    cameras: list[Camera] = field(default_factory=list)
    counted: np.ndarray | None = None
    levels: np.ndarray | None = None
    alike: np.ndarray | None = None
    attributes: np.ndarray | None = None
    centre: tuple[float, float] = (0.0, 0.0)


class ScanDataset(Dataset[Sample]):
    """Scans with boxes: `dataset[i]` is what the transform makes of {"scan", "name"}.

    A reader gives `_load(index)`.  Attributes as of a `PictureDataset`: info, items, split, notes.

    reach   class -> metres from the vehicle within which the data set's own scores count it, found or labelled
    """

    task: ClassVar[str] = "boxes3d"
    needs_folder: ClassVar[bool] = True  # this and the next as of a PictureDataset
    takes_patterns: ClassVar[bool] = False
    own_classes: ClassVar[bool] = False
    reach: ClassVar[Mapping[str, float]] = {}
    items: Sequence[Any]

    def __init__(self, info: DatasetInfo, transform: Transform | None = None, cache: bool = False) -> None:
        self.info, self.transform, self.split = info, transform, ""
        self.notes: list[str] = []
        self._cache: dict[int, Scan] | None = {} if cache else None

    @classmethod
    def evaluation_split(cls, root: Path) -> str:
        return "val"

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Sample:
        return apply_transform(self.transform, self.sample(index))

    def _load(self, index: int) -> Scan:
        raise NotImplementedError

    def load(self, index: int) -> Scan:
        """The scan, checked: points and boxes have their shapes, labels lie among the classes.  Raises ScanError."""
        if self._cache is not None and index in self._cache:
            return self._cache[index]
        scan = self._load(index)
        check_scan(scan, self.info.num_classes)
        if self._cache is not None:
            self._cache[index] = scan
        return scan

    def sample(self, index: int) -> Sample:
        scan = self.load(index)
        return {"scan": scan, "name": scan.name}

    def preload(self, threads: int = 2) -> None:
        """Reads everything into the cache."""
        if self._cache is None:
            raise ValueError(f"data set {self.info.name!r} has no cache; build it with cache=True")
        for index in range(len(self)):
            self.load(index)


def check_scan(scan: Scan, num_classes: int) -> None:
    """Raises ScanError where shapes, labels or boxes cannot be meant."""
    where = scan.name or "the scan"
    if scan.points.ndim != 2 or scan.points.shape[1] < 3:
        raise ScanError(
            f"{where}: points have shape {scan.points.shape}; give (N, 3 or more): x, y, z and further values"
        )
    if scan.boxes.ndim != 2 or scan.boxes.shape[1] not in (7, 9) or len(scan.boxes) != len(scan.labels):
        raise ScanError(
            f"{where}: boxes have shape {scan.boxes.shape} and labels {scan.labels.shape}; give (M, 7 or 9) and (M,)"
        )
    if len(scan.labels) and not 0 <= scan.labels.min() <= scan.labels.max() < num_classes:
        raise ScanError(
            f"{where}: labels go from {scan.labels.min()} to {scan.labels.max()}; there are {num_classes} classes"
        )
    if not np.isfinite(scan.boxes[:, :7]).all():
        raise ScanError(
            f"{where}: {int((~np.isfinite(scan.boxes[:, :7])).any(1).sum())} boxes hold values that are no numbers"
        )
    if scan.pose is not None and (scan.pose.shape != (4, 4) or not np.isfinite(scan.pose).all()):
        raise ScanError(f"{where}: the pose has shape {scan.pose.shape}; give a finite (4, 4) matrix")


def target_of(scan: Scan) -> Tensor:
    """(M, 10) float32: a box's seven numbers, its label, the speeds (not a number where unknown), without boxes of no extent."""
    kept = (scan.boxes[:, 3:6] > 0).all(1)
    boxes = scan.boxes[kept]
    speeds = boxes[:, 7:9] if boxes.shape[1] == 9 else np.full((len(boxes), 2), np.nan)
    return torch.from_numpy(np.concatenate((boxes[:, :7], scan.labels[kept, None], speeds), 1).astype(np.float32))


def inputs_of(scan: Scan, in_channels: int, raster: Callable[[Scan], np.ndarray] | None = None) -> dict[str, Tensor]:
    """{"points" (N, in_channels)} and, where `raster` draws it, {"map"}: what a detector takes of a scan.

    Points with a value that is not finite are left out; further values than the scan has are 0.
    """
    points = scan.points[np.isfinite(scan.points).all(1), :in_channels]
    if points.shape[1] < in_channels:
        points = np.pad(points, ((0, 0), (0, in_channels - points.shape[1])))
    found = {"points": torch.from_numpy(np.ascontiguousarray(points, np.float32))}
    return found if raster is None else found | {"map": torch.from_numpy(np.array(raster(scan), np.float32))}


def collate_scans(samples: Sequence[Sample]) -> dict[str, Any]:
    """Samples {"points" (N, F), "boxes" (M, 10), "map", "name"} as a batch: points filled up by such that are far away, boxes by
    such of label -1."""
    batch: dict[str, Any] = {"name": [sample["name"] for sample in samples]}
    for key, empty in (("points", FAR), ("boxes", NO_BOX)):
        if key in samples[0]:
            rows = [sample[key] for sample in samples]
            batch[key] = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=empty)
    if "map" in samples[0]:
        batch["map"] = torch.stack([sample["map"] for sample in samples])
    return batch


def part_of(root: Path, split: str, names: Sequence[str]) -> list[str]:
    """The names of a split, by root/SPLIT.txt or root/ImageSets/SPLIT.txt; "all": all of them.  FileNotFoundError, or ScanError
    for a list of names that are not there."""
    if split == "all":
        return list(names)
    path = next((p for p in (root / f"{split}.txt", root / "ImageSets" / f"{split}.txt") if p.is_file()), None)
    if path is None:
        raise FileNotFoundError(
            f"{root} has no {split}.txt, a list of the names of that split; write one, or give split 'all'"
        )
    wanted = path.read_text("utf-8").split()
    missing = sorted(set(wanted) - set(names))
    if missing:
        raise ScanError(f"{path} names {', '.join(missing[:4])}{' …' if len(missing) > 4 else ''}, which is not there")
    return wanted
