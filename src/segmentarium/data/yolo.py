"""Objects in the text files of YOLO's segmentation: a line an object, its class and a polygon in shares of the picture.

    data.yaml                    names of the classes; train, val, test: folders of pictures, or lists of them
    images/{train,val}/*         labels/{train,val}/*.txt:  class x y x y x y …
    {train,val}/images/*         {train,val}/labels/*.txt, instead
    images/*                     labels/*.txt, instead, as of Label Studio: divided by train.txt …, else by a hash of the names

Folders of val may be called valid or validation.  Without data.yaml the classes are those of classes.txt.  A picture without a
text file has no object.  A line of four numbers is a box, or has two points: it is refused, for what it shows would be learnt as
background.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segmentarium.data.base import Transform, require_folder
from segmentarium.data.class_table import class_file, read_classes
from segmentarium.data.finding import pictures_below, pictures_by_name
from segmentarium.data.segments import Outline, SegmentDataset, SegmentItem, Tell, draw, refuse, segment_info
from segmentarium.data.splits import PART_NAMES, PARTS, check_split, chosen, scored_part, wanted_parts
from segmentarium.data.text_files import read_lines, read_text, read_yaml
from segmentarium.data.unlisted import note_of_parts

SPLITS = ("train", "val", "trainval", "test", "all")
CONFIGS = ("data.yaml", "data.yml", "dataset.yaml")


class Yolo(SegmentDataset):
    """A folder of YOLO's; every class is a thing.

    Raises:
        FileNotFoundError: no such folder or split, or no names of classes.
        SegmentError: a data.yaml that is none, or lines that are none of the form.
    """

    def __init__(
        self, root: str | Path, split: str = "train", transform: Transform | None = None, cache: bool = False
    ) -> None:
        check_split(split, SPLITS, "yolo")
        root = require_folder(Path(root), "data.yaml, images/ and labels/")
        config = _config(root)
        names = _names(root, config)
        pictures: list[Path] = []
        notes: list[str] = []
        if _is_divided(root, config):
            for part in wanted_parts(split):
                found = _pictures(root, config, part, needed=split != "all")
                if (said := _said(config, part)) and not found:
                    notes.append(f"data.yaml names {said} for {part!r}, where no pictures are")
                pictures += found
            if not any(_said(config, part) for part in PARTS):
                notes += note_of_parts(folder for part in PARTS if (folder := _folder(root, part)) is not None)
        else:
            pictures, notes = _undivided(root, split)
        items = [SegmentItem(path, _label_file(path), None, _below(path, root)) for path in dict.fromkeys(pictures)]
        if not items:
            raise FileNotFoundError(f"{root} holds no pictures for split {split!r}")
        super().__init__(segment_info(root.resolve().name, names, (), "your own"), items, None, transform, cache)
        self.notes += notes
        bare = sum(not item.labels.is_file() for item in items)
        if bare == len(items):
            raise FileNotFoundError(f"{items[0].labels} does not exist, nor any other text file of {root}'s pictures")
        if bare:
            self.notes.append(f"{bare} of {len(items)} pictures have no text file, and so no object")

    @classmethod
    def evaluation_split(cls, root: Path) -> str:
        """test where there is one with text files, else val."""
        config = _config(root)
        if not _is_divided(root, config):
            return scored_part(root, list(pictures_by_name(root / "images")))
        found = _pictures(root, config, "test", needed=False)
        return "test" if any(_label_file(path).is_file() for path in found) else "val"

    def annotate(self, item: SegmentItem, height: int, width: int, tell: Tell) -> tuple[np.ndarray, np.ndarray]:
        outlines = []
        lines = read_text(item.labels).splitlines() if item.labels.is_file() else []
        for place, line in enumerate(lines, 1):
            words, what = line.split(), f"line {place} of {item.labels.name}"
            if not words:
                continue
            try:
                label, points = int(float(words[0])), np.array(words[1:], np.float64)
            except ValueError:
                tell("error", "unreadable labels", f"{what} is {line[:60]!r}; write the class and x y x y …")
                continue
            if not 0 <= label < self.info.num_classes:
                tell("error", "no category", f"{what} has class {label}, and there are {self.info.num_classes} names")
            elif points.size < 6 or points.size % 2:
                tell(
                    "error", "polygon", f"{what} has {points.size} numbers; write three points or more (four are a box)"
                )
            else:
                outlines.append(
                    Outline(what, label, polygons=[(points * np.tile((width, height), points.size // 2)).tolist()])
                )
        return draw(outlines, height, width, tell)


def _config(root: Path) -> dict[str, Any]:
    path = next((root / name for name in CONFIGS if (root / name).is_file()), None)
    if path is None:
        return {}
    content = read_yaml(path)
    if not isinstance(content, dict):
        refuse(path, "should hold names, train and val")
    return content


def _names(root: Path, config: dict[str, Any]) -> Sequence[str]:
    names = config.get("names")
    if isinstance(names, dict):
        if sorted(names) != list(range(len(names))):
            refuse(root / "data.yaml", f"numbers the classes {sorted(names)[:8]}; number them 0, 1, 2, … without a gap")
        names = [names[i] for i in range(len(names))]
    if names:
        return [str(name) for name in names]
    listed = class_file(root)
    if listed is None:
        raise FileNotFoundError(f"{root} has neither data.yaml with names nor classes.txt: the classes have no names")
    return read_classes(listed).classes


def _pictures(root: Path, config: dict[str, Any], part: str, *, needed: bool) -> list[Path]:
    """The pictures of one part, as data.yaml or the folders say.

    needed   whether FileNotFoundError is raised where the part is not there; else there are none.  Roboflow's data.yaml names a
             test part that many exports lack.  Where some of several folders lack, it is raised in any case
    """
    base = root / str(config.get("path") or "")
    said = _said(config, part)
    if said:
        found: list[Path] = []
        names = said if isinstance(said, list) else [said]
        places = [
            next((p for p in (base / one, root / one, root / str(one).removeprefix("../")) if p.exists()), None)
            for one in names
        ]
        for one, place in zip(names, places, strict=True):
            if place is not None:
                found += _listed(place, base) if place.is_file() else pictures_below(place)
            elif needed or any(places):
                raise FileNotFoundError(f"{root / one} does not exist, but data.yaml names it for {part!r}")
        return found
    folder = _folder(root, part)
    if folder is None:
        if needed:
            there = ", ".join(one for one in PARTS if _said(config, one) or _folder(root, one))
            raise FileNotFoundError(
                f"{root} is divided into {there}, but has neither images/{part}/ nor {part}/images/, and data.yaml names none"
            )
        return []
    return pictures_below(folder)


def _is_divided(root: Path, config: dict[str, Any]) -> bool:
    return any(_said(config, part) or _folder(root, part) for part in PARTS)


def _said(config: dict[str, Any], part: str) -> Any:
    """What data.yaml names for a part: a folder, a list, or several; nothing where it does not."""
    return next((config[name] for name in PART_NAMES[part] if config.get(name)), None)


def _folder(root: Path, part: str) -> Path | None:
    """The pictures' folder of a part; None where it has none."""
    places = (place for name in PART_NAMES[part] for place in (root / "images" / name, root / name / "images"))
    return next((place for place in places if place.is_dir()), None)


def _undivided(root: Path, split: str) -> tuple[list[Path], list[str]]:
    """The pictures of a split where no folder of its own has them, and what is to be said of the division."""
    folder = require_folder(
        root / "images", "the pictures, beside labels/; or images/train/, train/images/, or data.yaml"
    )
    pictures = pictures_by_name(folder)
    found, notes = chosen(root, list(pictures), split, f"folder {root.resolve().name}")
    return [pictures[name] for name in found], notes


def _listed(path: Path, base: Path) -> list[Path]:
    found = [(base if not line.startswith("./") else path.parent) / line for line in read_lines(path)]
    missing = [one for one in found if not one.is_file()]
    if missing:
        raise FileNotFoundError(f"{missing[0]} is not there, but {path.name} has it ({len(missing)} are missing)")
    return found


def _label_file(picture: Path) -> Path:
    """labels/ for the last images/ of the path, .txt for its ending."""
    parts = list(picture.with_suffix(".txt").parts)
    if "images" in parts[:-1]:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return Path(*parts)


def _below(path: Path, root: Path) -> str:
    inside = path.relative_to(root) if path.is_relative_to(root) else Path(path.name)
    return inside.with_suffix("").as_posix().removeprefix("images/")
