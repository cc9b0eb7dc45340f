"""Anyone's objects: a folder with `images/`, and `instances/` with a PNG of the same name for each.

    images/*            pictures of any kind, in sub-folders if liked
    instances/*         0 is background, every other value one object; 8 or 16 bits, or R + 256 G + 65536 B in colour.
                        Of several classes, value = (class + 1) · 1000 + number, with classes from 0
    classes.txt         the names of the classes, one a line; without it there is one class, "object"

Train, val and test come from sub-folders (`images/train/` with `instances/train/`), else from `train.txt` … with names, else from
a hash of the name.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from segmentarium.data.base import Transform, require_folder
from segmentarium.data.class_table import class_file, read_classes
from segmentarium.data.finding import pictures_by_name
from segmentarium.data.segments import NOBODY, SegmentDataset, SegmentItem, Tell, numbered, read_numbers, segment_info
from segmentarium.data.splits import check_split, chosen, scored_part

SPLITS = ("train", "val", "trainval", "test", "all")


class InstanceFolder(SegmentDataset):
    """A plain folder of pictures and their objects; see the head of this module for its layout.

    classes: names of the classes, instead of classes.txt.
    divisor: of values, what a class has: value // divisor - 1 is the class, where there are several.

    Raises:
        FileNotFoundError: no such folder or split, no pictures, or pictures without a file of objects.
        ValueError: two pictures, or two files of objects, that differ in their endings alone.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        transform: Transform | None = None,
        cache: bool = False,
        classes: Sequence[str] | str | None = None,
        divisor: int = 1000,
    ) -> None:
        check_split(split, SPLITS, "instances")
        root = Path(root)
        images = require_folder(root / "images", "the pictures, beside instances/")
        maps = require_folder(root / "instances", "a PNG of each picture's objects")
        if divisor < 2:
            raise ValueError(f"divisor is {divisor}; give how many values a class has, such as 1000")
        self.divisor = divisor
        names, palette = _classes(root, classes)
        pictures = pictures_by_name(images)
        found, notes = chosen(root, list(pictures), split, f"folder {root.resolve().name}")
        if not found:
            raise FileNotFoundError(f"{images} holds no pictures for split {split!r}")
        known = pictures_by_name(maps)
        missing = [name for name in found if name not in known]
        if missing:
            raise FileNotFoundError(
                f"{maps} has no file for {len(missing)} of {len(found)} pictures: {', '.join(missing[:5])}; "
                "write one of zeros where there is no object"
            )
        items = [SegmentItem(pictures[name], known[name], None, name) for name in found]
        super().__init__(segment_info(root.resolve().name, names, palette, "your own"), items, None, transform, cache)
        self.notes += notes

    @classmethod
    def evaluation_split(cls, root: Path) -> str:
        """test where the folder is divided and has one, else val."""
        return scored_part(root, list(pictures_by_name(root / "images")))

    def annotate(self, item: SegmentItem, height: int, width: int, tell: Tell) -> tuple[np.ndarray, np.ndarray]:
        values = read_numbers(item.labels, height, width)
        present = [value for value in np.unique(values).tolist() if value > 0]
        classes = self.info.num_classes
        label = {value: 0 if classes == 1 else value // self.divisor - 1 for value in present}
        segments = {value: (label[value], False) for value in present if 0 <= label[value] < classes}
        return numbered(values, segments, {0: NOBODY}, tell)


def _classes(root: Path, classes: Sequence[str] | str | None) -> tuple[Sequence[str], Sequence[tuple[int, int, int]]]:
    """Names and colours; no colours where none are given."""
    if classes is not None:
        return ([classes] if isinstance(classes, str) else classes), ()
    path = class_file(root)
    if path is None:
        return ["object"], ()
    table = read_classes(path)
    return table.classes, table.palette if table.coloured else ()
