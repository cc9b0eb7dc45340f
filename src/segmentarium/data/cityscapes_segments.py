"""Cityscapes with its objects: `gtFine/<split>/<city>/<name>_gtFine_instanceIds.png`, as published.

A pixel is the class's id, or id · 1000 + k for the k-th object of a class of things; an id alone of such a class is a group whose
objects are not told apart, a crowd.  `cityscapes_panoptic` has the 19 classes, the same segments as the set's own scripts write
to JSON; `cityscapes_instances` the 8 of things.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from segmentarium.data.base import Transform
from segmentarium.data.cityscapes import INFO, class_ids, label_file, pictures_of
from segmentarium.data.segments import (
    NOBODY,
    VOID,
    SegmentDataset,
    SegmentItem,
    Tell,
    numbered,
    read_numbers,
    segment_info,
)
from segmentarium.data.splits import check_split

SPLITS = ("train", "val", "trainval")  # the labels of test are not published
THINGS = tuple(range(11, 19))  # person to bicycle
IDS = (*range(35), 65535)  # of the set; the licence plate is -1, in 16 bits 65535


class CityscapesPanoptic(SegmentDataset):
    """Cityscapes in 19 classes, everything a segment; `split` is train, val or trainval."""

    stuff = True

    def __init__(
        self, root: str | Path, split: str = "train", transform: Transform | None = None, cache: bool = False
    ) -> None:
        name = "cityscapes_panoptic" if self.stuff else "cityscapes_instances"
        check_split(split, SPLITS, name)
        root = Path(root)
        items = [SegmentItem(one, label_file(root, one, "instanceIds")) for one in pictures_of(root, split)]
        if not items[0].labels.is_file():
            raise FileNotFoundError(f"{items[0].labels} does not exist; the objects of gtFine are needed")
        kept = range(INFO.num_classes) if self.stuff else THINGS
        palette = [INFO.palette[i] for i in kept]
        self.index_of = {class_ids()[i]: place for place, i in enumerate(kept)}
        info = segment_info(name, [INFO.classes[i] for i in kept], palette, INFO.licence, INFO.url)
        super().__init__(info, items, THINGS if self.stuff else None, transform, cache)

    def annotate(self, item: SegmentItem, height: int, width: int, tell: Tell) -> tuple[np.ndarray, np.ndarray]:
        values = read_numbers(item.labels, height, width)
        ids = class_ids()
        things = {ids[i] for i in THINGS}
        segments, nothing = {}, {}
        for value in np.unique(values).tolist():
            one = value // 1000 if 1000 <= value != IDS[-1] else value
            if one in self.index_of and (value < 1000 or one in things):
                segments[value] = self.index_of[one], value < 1000 and one in things
            elif one in IDS:  # in a set of objects, the ground that they stand on is labelled: it is nobody's
                nothing[value] = NOBODY if not self.stuff and one in ids else VOID
        return numbered(values, segments, nothing, tell)


class CityscapesInstances(CityscapesPanoptic):
    """Cityscapes' 8 classes of things, each object by itself; `split` is train, val or trainval."""

    stuff = False
