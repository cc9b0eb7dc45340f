"""Exports of labelling tools as classes of pixels: what `--data folder` finds that is none of its own layout.

    annotations.xml                                      CVAT for images 1.1
    *.json with "shapes"                                 labelme
    *.json with "images", "annotations", "categories"    COCO (Roboflow, CVAT, Label Studio, FiftyOne export it)
    data.yaml, or labels/ of text files                  YOLO's segmentation

A pixel has the class of the object drawn on it, of the first where several are; what nobody drew on is background, which is
class 0 where the tool has no class of that name.  As objects, told apart, the same files are read by `--data labelme`, `cvat`, …
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from segmentarium.data.base import DatasetInfo, SegmentationDataset, Transform
from segmentarium.data.finding import begins_as_picture
from segmentarium.data.image_io import IMAGE_SUFFIXES
from segmentarium.data.mask_io import MaskEncoding
from segmentarium.data.segments import VOID, SegmentDataset
from segmentarium.data.splits import PART_NAMES, wanted_parts
from segmentarium.data.yolo import CONFIGS

READERS = {
    "cvat": ("segmentarium.data.cvat", "Cvat"),
    "labelme": ("segmentarium.data.labelme", "Labelme"),
    "coco_instances": ("segmentarium.data.coco_instances", "CocoInstances"),
    "yolo": ("segmentarium.data.yolo", "Yolo"),
}
BACKGROUND = ("background", "_background_")
_LOOKED_AT = 50  # files, in search of what they are
_HEAD = 4096  # characters of a JSON that tell


def tool_layout(root: Path) -> str | None:
    """The reader, of `READERS`, whose layout a folder has; None: it is no export of a tool, or holds label images."""
    if not root.is_dir() or any(
        _label_images(root / name) for name in ("masks", "labels", "annotations", "SegmentationClass")
    ):
        return None
    if (root / "annotations.xml").is_file():
        return "cvat"
    for path in _files(root, {".json"}):
        if (kind := _json_kind(path)) is not None:
            return kind
    listed = any((root / name).is_file() for name in (*CONFIGS, "classes.txt"))
    places = [root / "labels", *(root / name / "labels" for names in PART_NAMES.values() for name in names)]
    drawn = any(next(iter(_files(place, {".txt"})), None) for place in places if place.is_dir())
    return "yolo" if drawn and listed else None


def _label_images(folder: Path) -> bool:
    for place, inner, names in os.walk(folder, followlinks=True):
        inner[:] = [name for name in inner if not name.startswith(".")][:_LOOKED_AT]
        for path in (Path(place, name) for name in names[:_LOOKED_AT] if not name.startswith(".")):
            if path.suffix.lower() in (*IMAGE_SUFFIXES, ".npy") or begins_as_picture(path):
                return True
        if place.count(os.sep) - str(folder).count(os.sep) > 2:
            return False
    return False


def _files(folder: Path, suffixes: set[str]) -> Iterator[Path]:
    """The first few of a folder, and of the folders in it."""
    seen = 0
    for place, inner, names in os.walk(folder, followlinks=True):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        if len(Path(place).relative_to(folder).parts) >= 3:
            inner.clear()
        for name in sorted(names):
            if Path(name).suffix.lower() in suffixes and not name.startswith("."):
                yield Path(place, name)
                seen += 1
                if seen >= _LOOKED_AT:
                    return


def _json_kind(path: Path) -> str | None:
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            head = file.read(_HEAD)
            if '"shapes"' in head or '"imageData"' in head:
                return "labelme"
            if '"images"' in head or '"categories"' in head or '"annotations"' in head:
                content = json.loads(head + file.read())
                return "coco_instances" if {"images", "annotations", "categories"} <= set(content) else None
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    return None


class DrawnItem(NamedTuple):
    """Where a picture and the file with its outlines lie, and which of whose segments they are."""

    image: Path
    mask: Path
    part: int
    index: int


class DrawnLabels(SegmentationDataset):
    """Segments of a reader as classes of pixels.

    parts   the readers' data sets, of the same classes
    """

    label_images = False

    def __init__(
        self, parts: Sequence[SegmentDataset], transform: Transform | None = None, cache: bool = False
    ) -> None:
        self.parts, info = parts, parts[0].info
        known = next((name for name in info.classes if name.lower() in BACKGROUND), None)
        self.shift = 0 if known is not None else 1
        self.nobody = 0 if known is None else info.classes.index(known)
        classes = info.classes if known is not None else ("background", *info.classes)
        palette = info.palette if known is not None else ((0, 0, 0), *(_not_black(colour) for colour in info.palette))
        items = [
            DrawnItem(item.image, item.labels, number, index)
            for number, part in enumerate(parts)
            for index, item in enumerate(part.items)
        ]
        own = DatasetInfo(info.name, classes, palette, licence=info.licence, url=info.url)
        super().__init__(own, items, MaskEncoding(len(classes)), transform, cache)  # type: ignore[arg-type]
        self.notes, self.split = [note for part in parts for note in part.notes], parts[0].split
        self.unlisted = [path for part in parts for path in part.unlisted]
        self.bits = parts[0].bits

    def name(self, index: int) -> str:
        item: Any = self.items[index]
        return self.parts[item.part].name(item.index)

    def read_label(self, item: Any) -> np.ndarray:
        _, found = self.parts[item.part].load(item.index)
        number = self.parts[item.part].info.num_classes
        labels = found.label_map(number)
        if number == 1:  # 1 on the object, 0 beside it
            return labels
        drawn = labels < number
        result = np.where(drawn, labels + self.shift, self.nobody).astype(np.uint8)
        result[(found.ids == VOID).any(0) & ~drawn] = 255
        return result


def _not_black(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    return colour if colour != (0, 0, 0) else (160, 160, 160)  # black is the background's


def open_drawn(
    tool: str, root: Path, split: str | None, transform: Transform | None, options: dict[str, Any]
) -> DrawnLabels:
    """The data set that `--data folder` is of a tool's export.  Raises what its reader raises."""
    cache, classes = bool(options.pop("cache", False)), options.pop("classes", None)
    options.pop("strict", None)
    if classes is not None and tool == "labelme":
        options["classes"] = classes
    module, name = READERS[tool]
    reader = getattr(importlib.import_module(module), name)
    if strange := sorted(options.keys() - inspect.signature(reader).parameters.keys()):
        raise ValueError(f"{root} is an export of {tool}, which has no use for {', '.join(strange)}; leave that out")
    split = split or "all"
    try:
        parts = [reader(root, split=split, **options)]
    except (FileNotFoundError, ValueError):
        if split not in ("all", "trainval"):
            raise
        parts = list(_parts(reader, root, split, options))
        if not parts:
            raise
    found = DrawnLabels(parts, transform, cache)
    found.notes.append(f"{root} is an export of {tool}: objects are read as classes of pixels, the rest is background")
    return found


def _parts(reader: Any, root: Path, split: str, options: dict[str, Any]) -> Iterator[SegmentDataset]:
    for part in wanted_parts(split):
        try:
            yield reader(root, split=part, **options)
        except FileNotFoundError:
            continue
