"""Panoptic labels as COCO writes them: a PNG whose pixel R + 256 G + 65536 B is a segment's number, and one JSON for all.

`coco_panoptic`: COCO 2017, 80 classes of things and 53 of stuff.  A. Kirillov, K. He, R. Girshick, C. Rother, P. Dollár,
"Panoptic Segmentation", CVPR 2019, https://arxiv.org/abs/1801.00868.

    annotations/panoptic_{train,val}2017.json     annotations/panoptic_{train,val}2017/*.png
    {train,val}2017/*.jpg or images/{train,val}2017/*.jpg

`ade20k_panoptic`: ADE20K's 100 things and 50 stuff, as MaskFormer's preparation writes them.

    ade20k_panoptic_{train,val}.json     ade20k_panoptic_{train,val}/*.png     images/{training,validation}/*.jpg

Classes are the JSON's categories in the order of their ids, which may have gaps.  Number 0 is void.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from segmentarium.data.base import DatasetInfo, Transform, inner_folder, require_folder
from segmentarium.data.segments import (
    VOID,
    SegmentDataset,
    SegmentError,
    SegmentItem,
    Tell,
    numbered,
    read_numbers,
    refuse,
    segment_info,
)
from segmentarium.data.splits import check_split
from segmentarium.data.text_files import read_json

SPLITS = ("train", "val")


class PanopticJson(SegmentDataset):
    """A data set in COCO's panoptic form; a subclass says where its parts lie.

    Raises:
        FileNotFoundError: no JSON, or a picture of it is not there.
        SegmentError: a JSON that is none of this form.
    """

    info_name: ClassVar[str]
    licence: ClassVar[str]
    url: ClassVar[str]

    def __init__(
        self, root: str | Path, split: str = "train", transform: Transform | None = None, cache: bool = False
    ) -> None:
        check_split(split, SPLITS, self.info_name)
        path, maps, pictures = self.places(Path(root), split)
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist; it should hold the segments of the pictures in {pictures}")
        content = read_coco(path, ("images", "annotations", "categories"))
        info, self.classes_of, things = categories_of(content, self.info_name, path, self.licence, self.url)
        names = {one["id"]: one["file_name"] for one in content["images"]}
        items = []
        for one in content["annotations"]:
            if one["image_id"] not in names:
                refuse(path, f"has segments of picture {one['image_id']}, which is not among its images")
            items.append(SegmentItem(pictures / names[one["image_id"]], maps / one["file_name"], one["segments_info"]))
        if not items:
            refuse(path, "has no annotations")
        if not items[0].image.is_file():
            raise FileNotFoundError(f"{items[0].image} is not there, but {path.name} has it")
        super().__init__(info, items, things, transform, cache)
        self.notes += gaps(self.classes_of)

    @staticmethod
    def places(root: Path, split: str) -> tuple[Path, Path, Path]:
        """The JSON, the folder of its PNG files, and that of the pictures."""
        raise NotImplementedError

    def objects(self, index: int) -> list[int]:  # without reading the map
        entries = [one for one in self.items[index].entry if not one.get("iscrowd", 0)]
        return [self.classes_of[one["category_id"]] for one in entries if one["category_id"] in self.classes_of]

    def annotate(self, item: SegmentItem, height: int, width: int, tell: Tell) -> tuple[np.ndarray, np.ndarray]:
        values = read_numbers(item.labels, height, width)
        segments, given = {}, {}
        for one in item.entry:
            if one["category_id"] not in self.classes_of:
                message = f"segment {one['id']} has category {one['category_id']}, which the JSON does not define"
                tell("error", "no category", message)
                continue
            if one["id"] in segments:
                tell("error", "overlap", f"the JSON has segment {one['id']} twice; a pixel belongs to one segment")
                continue
            segments[one["id"]] = self.classes_of[one["category_id"]], bool(one.get("iscrowd", 0))
            left, top, wide, high = one["bbox"]
            given[one["id"]] = one["area"], (left, top, left + wide, top + high)
        return numbered(values, segments, {0: VOID}, tell, given)


class CocoPanoptic(PanopticJson):
    """COCO 2017, panoptic; `split` is train or val."""

    info_name, licence, url = (
        "coco_panoptic",
        "annotations CC BY 4.0; photographs by their Flickr licences",
        "https://cocodataset.org",
    )

    @staticmethod
    def places(root: Path, split: str) -> tuple[Path, Path, Path]:
        part, annotations = f"{split}2017", root / "annotations"
        pictures = root / "images" / part if (root / "images" / part).is_dir() else root / part
        require_folder(pictures, "the pictures of COCO 2017, also looked for in images/")
        return annotations / f"panoptic_{part}.json", annotations / f"panoptic_{part}", pictures


class ADE20KPanoptic(PanopticJson):
    """ADE20K, panoptic; `split` is train or val."""

    info_name, url = "ade20k_panoptic", "http://sceneparsing.csail.mit.edu/"
    licence = "research and education, non-commercial; annotations BSD"

    @staticmethod
    def places(root: Path, split: str) -> tuple[Path, Path, Path]:
        root = inner_folder(root, "ADEChallengeData2016", "images")
        folder = {"train": "training", "val": "validation"}[split]
        pictures = require_folder(root / "images" / folder, "the pictures of ADE20K")
        return root / f"ade20k_panoptic_{split}.json", root / f"ade20k_panoptic_{split}", pictures


def read_coco(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    """An object with these keys, each a list.  SegmentError for anything else."""
    content = read_json(path, SegmentError)
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in keys):
        refuse(path, f"is not in COCO's form: it should hold the lists {', '.join(keys)}")
    return content


def categories_of(
    content: dict[str, Any], name: str, path: Path, licence: str, url: str
) -> tuple[DatasetInfo, dict[int, int], list[int]]:
    """The classes of a JSON in the order of their ids, category id -> class index, and which are things (`isthing`, else all)."""
    listed = sorted(content["categories"], key=lambda one: one["id"])
    if not listed:
        refuse(path, "defines no categories")
    ids = [one["id"] for one in listed]
    if len(set(ids)) < len(ids):
        refuse(path, f"defines category {next(i for i in ids if ids.count(i) > 1)} twice")
    colours = [tuple(one["color"]) for one in listed if len(one.get("color", ())) == 3]
    palette = colours if len(colours) == len(listed) else ()
    info = segment_info(name, [str(one["name"]) for one in listed], palette, licence, url)
    things = [i for i, one in enumerate(listed) if one.get("isthing", 1)]
    return info, {one: index for index, one in enumerate(ids)}, things


def gaps(classes_of: dict[int, int]) -> list[str]:
    """The line that a set whose category ids are not 0, 1, 2, … says of them; nothing where they are."""
    ids = sorted(classes_of)
    missing = ids[-1] - ids[0] + 1 - len(ids)
    if ids == list(range(len(ids))):
        return []
    more = f" with {missing} gaps" if missing else ""
    return [
        f"the {len(ids)} categories have ids {ids[0]} to {ids[-1]}{more}; they are classes 0 to {len(ids) - 1}, in that order"
    ]
