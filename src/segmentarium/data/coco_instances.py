"""Objects in COCO's JSON: polygons, or runs (compressed or not).  What many tools export.

    annotations/instances_{train,val}2017.json     pictures in {train,val}2017/ or images/{train,val}2017/
    annotations/instances_{train,val}.json         pictures in images/{train,val}/, {train,val}/ or images/
    {train,val}.json, {train,val}/_annotations.coco.json, annotations.json (one for all, divided by a hash of the names)

T.-Y. Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014, https://arxiv.org/abs/1405.0312.

Classes are the categories in the order of their ids.  Crowds (`iscrowd`) are kept as such: they count nowhere in training, and
in scores as COCO's own evaluation counts them.  Pictures without objects are kept, too.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from segmentarium.data.base import Transform, require_folder
from segmentarium.data.finding import name_below
from segmentarium.data.panoptic_json import categories_of, gaps, read_coco
from segmentarium.data.segments import Outline, SegmentDataset, SegmentItem, Tell, draw, refuse
from segmentarium.data.splits import PART_NAMES, check_split, chosen, part_called, scored_part
from segmentarium.data.unlisted import named_as, note_of, unlisted

SPLITS = ("train", "val", "test", "trainval", "all")
DIVIDED = (
    "annotations/instances_{}2017.json", "annotations/instances_{}.json", "instances_{}.json", "annotations/{}.json",
    "{}.json", "{}/_annotations.coco.json",
)  # fmt: skip
UNDIVIDED = (  # one for all, divided by a hash of the names
    "annotations.json", "_annotations.coco.json", "annotations/instances_default.json", "instances_default.json",
    "annotations/instances.json", "annotations/annotations.json", "instances.json", "coco.json", "result.json",
    "labels.json",
)  # fmt: skip
LISTS = ("images", "annotations", "categories")
LICENCE = "annotations CC BY 4.0; photographs by their Flickr licences"


class CocoInstances(SegmentDataset):
    """Objects of one JSON; every class is a thing.

    annotations: path of the JSON, below the folder, where it has another name than those above.
    pictures: folder of the pictures, below the folder, likewise.
    background: pictures that lie in a part's own folder, or in that of all parts, and that no JSON lists, are taken as ones
        without an object; else they are left out, and told (`unlisted`).

    Raises:
        FileNotFoundError: no JSON, or its first picture is not there.
        SegmentError: a JSON that is none of this form.
    """

    lists_all: ClassVar[bool] = True  # pictures in the folder are of this set, and a JSON should list them

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        transform: Transform | None = None,
        cache: bool = False,
        annotations: str = "",
        pictures: str = "",
        background: bool = False,
    ) -> None:
        check_split(split, SPLITS, "coco_instances")
        root = require_folder(Path(root), "annotations/instances_train2017.json, or annotations.json")
        path = root / annotations if annotations else _annotations(root, split)
        content = read_coco(path, LISTS)
        name, licence, url = self.facts(root, path)
        info, self.classes_of, _ = categories_of(content, name, path, licence, url)
        self.categories = sorted(content["categories"], key=lambda one: one["id"])
        objects: dict[Any, list[dict[str, Any]]] = defaultdict(list)
        for one in content["annotations"]:
            objects[one["image_id"]].append(one)
        images = {one["id"]: one for one in content["images"]}
        if strange := sorted(map(str, objects.keys() - images.keys())):
            refuse(
                path, f"has objects of {len(strange)} pictures that are not among its images: {', '.join(strange[:5])}"
            )
        folder = root / pictures if pictures else _pictures(root, split, path, content)
        items = [
            SegmentItem(self.place(root, folder, one), path, (one, objects.get(number, [])))
            for number, one in images.items()
        ]
        notes: list[str] = []
        undivided = not annotations and _is_undivided(root, path)
        whole = self.lists_all and not annotations and _has_own_folder(root, path, folder)
        bare = unlisted(folder, (one.image for one in items)) if whole else []
        more = {one: SegmentItem(one, path, ({}, [])) for one in bare} if background else {}
        if undivided:
            named: dict[str, list[SegmentItem]] = defaultdict(list)  # a.jpg and a.png have one name
            for one in items:
                named[name_below(one.image, folder)].append(one)
            joined = named_as(more, folder, named)
            more = {one: more[one] for one in joined.values()}
            named |= {name: [more[one]] for name, one in joined.items()}
            found, notes = chosen(root, list(named), split, f"folder {root.resolve().name}")
            items = [one for name in found for one in named[name]]
        else:
            items += more.values()
        if not items:
            refuse(path, f"has no pictures for split {split!r}")
        if not items[0].image.is_file():
            raise FileNotFoundError(f"{items[0].image} is not there, but {path.name} has it")
        super().__init__(info, items, None, transform, cache)
        self.unlisted = [one for one in bare if one not in more]
        taken = sum(one.image in more for one in items)
        self.notes += [*notes, *gaps(self.classes_of), *note_of(self.unlisted, taken, f"entry in {path.name}")]

    @classmethod
    def evaluation_split(cls, root: Path) -> str:
        """test where it has annotations, else val."""
        try:
            path = _annotations(root, "test")
        except FileNotFoundError:
            return "val"
        content = read_coco(path, LISTS)
        if not _is_undivided(root, path):
            return "test" if content["annotations"] else "val"
        folder = _pictures(root, "test", path, content)
        return scored_part(root, [name_below(folder / str(one["file_name"]), folder) for one in content["images"]])

    @staticmethod
    def facts(root: Path, path: Path) -> tuple[str, str, str]:
        """Name, licence and address of the set whose JSON that is."""
        official = path.name in ("instances_train2017.json", "instances_val2017.json")
        licence, url = (LICENCE, "https://cocodataset.org") if official else ("your own", "")
        return f"{root.resolve().name} instances", licence, url

    def place(self, root: Path, folder: Path, picture: dict[str, Any]) -> Path:
        """Where a picture of the JSON lies; `folder` is that of the split's pictures."""
        return folder / picture["file_name"]

    def objects(self, index: int) -> list[int]:  # without drawing them
        _, objects = self.items[index].entry
        kept = [one for one in objects if one.get("segmentation") and not one.get("iscrowd", 0)]
        return [self.classes_of[one["category_id"]] for one in kept if one["category_id"] in self.classes_of]

    def annotate(self, item: SegmentItem, height: int, width: int, tell: Tell) -> tuple[np.ndarray, np.ndarray]:
        picture, objects = item.entry
        said = picture.get("width", width), picture.get("height", height)
        if said != (width, height):
            tell(
                "error", "size", f"{item.image} has {width} x {height} pixels, but the JSON says {said[0]} x {said[1]}"
            )
        outlines = []
        for one in objects:
            what = f"annotation {one.get('id', '?')} of {item.image.name}"
            if one["category_id"] not in self.classes_of:
                tell(
                    "error", "no category", f"{what} has category {one['category_id']}, which the JSON does not define"
                )
                continue
            drawn = one.get("segmentation")
            if not drawn:
                tell("warning", "empty", f"{what} has a box and no outline, and is left out")
                continue
            outlines.append(
                Outline(
                    what,
                    self.classes_of[one["category_id"]],
                    rle=drawn if isinstance(drawn, dict) else None,
                    polygons=drawn if isinstance(drawn, list) else (),
                    crowd=bool(one.get("iscrowd", 0)),
                    area=one.get("area"),
                    box=_corners(one.get("bbox")),
                )
            )
        return draw(outlines, height, width, tell)


def _corners(box: Any) -> tuple[float, float, float, float] | None:
    if not isinstance(box, list | tuple) or len(box) != 4:
        return None
    left, top, wide, high = map(float, box)
    return left, top, left + wide, top + high


def _annotations(root: Path, split: str) -> Path:
    names = [form.format(name) for name in PART_NAMES.get(split, (split,)) for form in DIVIDED] + list(UNDIVIDED)
    found = next((root / name for name in names if (root / name).is_file()), None)
    if found is None:
        raise FileNotFoundError(f"{root} has none of {', '.join(names)}; name it with annotations=")
    return found


def _is_undivided(root: Path, path: Path) -> bool:
    """Whether a JSON is one for all parts."""
    return path.relative_to(root).as_posix() in UNDIVIDED


def _has_own_folder(root: Path, path: Path, folder: Path) -> bool:
    """Whether a JSON should list all pictures of the folder: those of its part, or of all parts, and not those of other JSONs."""
    if not _is_undivided(root, path):
        return folder != root and part_called(folder.name.removesuffix("2017")) is not None
    names = (form.format(name) for names in PART_NAMES.values() for name in names for form in DIVIDED)
    return not any((root / name).is_file() for name in names)


def _pictures(root: Path, split: str, path: Path, content: dict[str, Any]) -> Path:
    """The folder that the JSON's names of pictures begin in."""
    first = str(content["images"][0].get("file_name", "")) if content["images"] else ""
    if path.parent != root and path.name == "_annotations.coco.json":
        return path.parent
    if path.parent == root and path.name in UNDIVIDED and not any((root / one).is_dir() for one in ("images", "data")):
        return root
    forms = ("{}2017", "images/{}2017", "images/{}", "{}")
    parts = [form.format(name) for name in PART_NAMES.get(split, (split,)) for form in forms]
    names = (*parts, "images/default", "images", "data")
    places = [root / name for name in names if (root / name).is_dir()] + [root]
    # Label Studio writes "images/…" into the names themselves
    return next((place for place in places if first and (place / first).is_file()), places[0])
