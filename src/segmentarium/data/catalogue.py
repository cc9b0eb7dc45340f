"""The data sets by name; each reader's module is imported when it is asked for."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Any

from segmentarium.checks import check_options, did_you_mean
from segmentarium.data.base import PictureDataset, Transform
from segmentarium.preprocessing import check_bits

_READERS = {
    "ade20k": ("segmentarium.data.ade20k", "ADE20K"),
    "ade20k_panoptic": ("segmentarium.data.panoptic_json", "ADE20KPanoptic"),
    "argoverse2": ("segmentarium.data.argoverse2", "Argoverse2"),
    "camvid": ("segmentarium.data.camvid", "CamVid"),
    "cityscapes": ("segmentarium.data.cityscapes", "Cityscapes"),
    "cityscapes_instances": ("segmentarium.data.cityscapes_segments", "CityscapesInstances"),
    "cityscapes_panoptic": ("segmentarium.data.cityscapes_segments", "CityscapesPanoptic"),
    "coco_instances": ("segmentarium.data.coco_instances", "CocoInstances"),
    "coco_keypoints": ("segmentarium.data.coco_keypoints", "CocoKeypoints"),
    "coco_panoptic": ("segmentarium.data.panoptic_json", "CocoPanoptic"),
    "coco_stuff": ("segmentarium.data.coco_stuff", "CocoStuff"),
    "cvat": ("segmentarium.data.cvat", "Cvat"),
    "eg1800": ("segmentarium.data.eg1800", "EG1800"),
    "folder": ("segmentarium.data.folder", "Folder"),
    "hpatches": ("segmentarium.data.hpatches", "HPatches"),
    "imagefolder": ("segmentarium.data.imagefolder", "ImageFolder"),
    "imagenet": ("segmentarium.data.imagefolder", "ImageNet"),
    "instances": ("segmentarium.data.instance_folder", "InstanceFolder"),
    "kitti": ("segmentarium.data.kitti", "Kitti"),
    "labelme": ("segmentarium.data.labelme", "Labelme"),
    "lidar_folder": ("segmentarium.data.lidar_folder", "LidarFolder"),
    "lvis": ("segmentarium.data.lvis", "LVIS"),
    "nuscenes": ("segmentarium.data.nuscenes", "NuScenes"),
    "parquet": ("segmentarium.data.shards", "Parquet"),
    "parquet_classes": ("segmentarium.data.shards", "ParquetClasses"),
    "pascal_context": ("segmentarium.data.pascal_context", "PascalContext"),
    "pascal_context59": ("segmentarium.data.pascal_context", "PascalContext59"),
    "pictures": ("segmentarium.data.pictures", "Pictures"),
    "points": ("segmentarium.data.points", "Points"),
    "scan_info": ("segmentarium.data.scan_info", "ScanInfo"),
    "shapes": ("segmentarium.data.shapes", "Shapes"),
    "voc": ("segmentarium.data.voc", "PascalVOC"),
    "webdataset": ("segmentarium.data.shards", "WebDataset"),
    "webdataset_classes": ("segmentarium.data.shards", "WebDatasetClasses"),
    "yolo": ("segmentarium.data.yolo", "Yolo"),
}
DEEP = ("segmentation", "segments", "classification", "pictures")  # tasks whose pictures are read as any
_ALIASES = {"portrait": "eg1800", "image_folder": "imagefolder"}


def list_datasets() -> list[str]:
    """The names that `build_dataset` knows, sorted."""
    return sorted(_READERS)


def build_dataset(
    name: str, root: str | Path, split: str = "train", transform: Transform | None = None, **options: Any
) -> PictureDataset:
    """The data set `name` as it lies in the folder `root`.

    `options` go to the reader: `cache=True` for all of them; classes, palette and mask map for `folder`.  `bits=12` is for all
    whose pictures may be deeper than 8 bits a value: 2 ** bits - 1 is white, and not what each picture needs.

    Raises:
        KeyError: no such data set (with the nearest names).
        FileNotFoundError: the folder has not the layout of that data set.
        ValueError: no such split, no such option (with the nearest names), or options that do not fit.
    """
    reader = _reader(name)
    deep = reader.needs_folder and getattr(reader, "task", None) in DEEP
    bits = options.pop("bits", None) if deep else None
    check_bits(bits)
    if name.lower() == "folder":
        from segmentarium.data.drawn_labels import open_drawn, tool_layout

        if (tool := tool_layout(Path(root))) is not None:
            dataset: PictureDataset = open_drawn(tool, Path(root), split, transform, dict(options))
            dataset.split, dataset.bits = split, bits
            return dataset
    known = ["bits"] if deep else []
    known += [one for one in inspect.signature(reader).parameters if one not in ("root", "split", "transform")]
    check_options(f"data set {name!r}", options, known)
    dataset = reader(root, split=split, transform=transform, **options)
    dataset.split = split
    if bits is not None:
        dataset.bits = bits
    return dataset


def evaluation_split(name: str, root: str | Path) -> str:
    """The split of the data set `name` in the folder `root` that a model is scored on where nobody names one.

    Raises:
        KeyError: no such data set (with the nearest names).
        ValueError: a file that should say it, as COCO's JSON does, is none of its form.
    """
    root = Path(root)
    if name.lower() == "folder":
        from segmentarium.data.drawn_labels import tool_layout

        name = tool_layout(root) or name
    return _reader(name).evaluation_split(root)


def list_splits(name: str) -> tuple[str, ...]:
    """The splits that the data set `name` may have; "all" is every picture there is.

    Raises:
        KeyError: no such data set (with the nearest names).
    """
    return importlib.import_module(_reader(name).__module__).SPLITS


def needs_folder(name: str) -> bool:
    """Whether the data set `name` reads files; one that is drawn by a program does not.

    Raises:
        KeyError: no such data set (with the nearest names).
    """
    return _reader(name).needs_folder


def takes_patterns(name: str) -> bool:
    """Whether the root of the data set `name` may be a file or a pattern of files, and need be no folder.

    Raises:
        KeyError: no such data set (with the nearest names).
    """
    return _reader(name).takes_patterns


def own_classes(name: str) -> bool:
    """Whether the data set `name` is anyone's: with names of classes, and maps of masks' values, that may be given.

    Raises:
        KeyError: no such data set (with the nearest names).
    """
    return _reader(name).own_classes


def _reader(name: str) -> Any:
    key = name.lower().replace("-", "_")
    key = _ALIASES.get(key, key)
    if key not in _READERS:
        raise UnknownDatasetError(f"there is no data set {name!r}{did_you_mean(key, [*_READERS, *_ALIASES])}")
    module, attribute = _READERS[key]
    return getattr(importlib.import_module(module), attribute)


class UnknownDatasetError(KeyError):
    """A name that is no data set; prints its message as it stands, where a KeyError would print its repr."""

    def __str__(self) -> str:
        return str(self.args[0])
