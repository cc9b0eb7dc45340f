"""Objects drawn with labelme: a JSON beside each picture, or one that says where its picture lies.

Shapes become objects: polygon, rectangle, circle, mask; points and lines have no area.  Shapes of one label and one group are
one object in several pieces.  `__ignore__` is void: it counts nowhere.  Classes are those of classes.txt, else all labels of the
folder, sorted.  Train, val and test come from sub-folders, else from `train.txt` …, else from a hash of the name.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
from collections.abc import Callable, Sequence
from functools import cache as remembered
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from segmentarium.data.base import Transform, require_folder
from segmentarium.data.class_table import IGNORED, class_file, read_classes
from segmentarium.data.finding import files_below, name_below, pictures_below
from segmentarium.data.image_io import IMAGE_SUFFIXES, open_image
from segmentarium.data.segments import (
    VOID,
    Outline,
    SegmentDataset,
    SegmentError,
    SegmentItem,
    Tell,
    draw,
    merged,
    refuse,
    segment_info,
)
from segmentarium.data.splits import check_split, chosen, scored_part
from segmentarium.data.text_files import read_json
from segmentarium.data.unlisted import named_as, note_of, unlisted
from segmentarium.rle import Patch

SPLITS = ("train", "val", "trainval", "test", "all")
CORNERS = 64  # of the polygon that a circle is drawn as


class Labelme(SegmentDataset):
    """A folder of labelme's files; every class is a thing.

    classes: names of the classes, instead of classes.txt or those that occur.
    background: pictures without a file are taken as ones without an object; else they are left out, and told (`unlisted`).

    Raises:
        FileNotFoundError: no such folder or split, no files, or a picture is missing.
        SegmentError: a file that is none of labelme's.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        transform: Transform | None = None,
        cache: bool = False,
        classes: Sequence[str] | None = None,
        background: bool = False,
    ) -> None:
        check_split(split, SPLITS, "labelme")
        root = require_folder(Path(root), "labelme's JSON files")
        files = _files(root)
        head = remembered(_head)  # files may hold their whole picture: each is read once
        bare = _bare(root, list(files.values()), head)
        more = named_as(bare, root, files) if background else {}
        found, notes = chosen(root, [*files, *more], split, f"folder {root.resolve().name}")
        if not found:
            raise FileNotFoundError(f"{root} holds no JSON files of labelme for split {split!r}")
        listed = class_file(root)
        palette: Sequence[tuple[int, int, int]] = ()
        if classes is None and listed is not None:
            table = read_classes(listed)
            classes, palette = table.classes, table.palette if table.coloured else ()
        elif classes is None:  # of all files, so that every split has the same
            labels = set[str]().union(*(head(path).labels for path in files.values()))
            classes = sorted(labels - {IGNORED})
            notes.append(f"the labels that occur are taken for the classes: {', '.join(classes)}")
            if not classes:
                refuse(root, "has no labelled shape")
        classes = [name for name in classes if name != IGNORED]
        self.index_of = {name: i for i, name in enumerate(classes)} | {IGNORED: VOID}
        items = [
            SegmentItem(more[name], more[name].with_suffix(".json"), {"shapes": []}, name)
            if name in more
            else SegmentItem(_there(head(files[name]).picture, files[name]), files[name], None, name)
            for name in found
        ]
        super().__init__(segment_info(root.resolve().name, classes, palette, "your own"), items, None, transform, cache)
        self.unlisted = [path for path in bare if path not in more.values()]
        self.notes += [*notes, *note_of(self.unlisted, sum(name in more for name in found), "JSON")]

    @classmethod
    def evaluation_split(cls, root: Path) -> str:
        """test where the folder is divided and has one, else val."""
        return scored_part(root, list(_files(root)))

    def annotate(self, item: SegmentItem, height: int, width: int, tell: Tell) -> tuple[np.ndarray, np.ndarray]:
        content = _read(item.labels) if item.entry is None else item.entry
        said = content.get("imageWidth") or width, content.get("imageHeight") or height
        if said != (width, height):
            tell(
                "error",
                "size",
                f"{item.image} has {width} x {height} pixels, but {item.labels} says {said[0]} x {said[1]}",
            )
        outlines, groups = [], []
        for place, shape in enumerate(content["shapes"], 1):
            what = f"shape {place} of {item.labels.name}"
            label = str(shape["label"])
            if label not in self.index_of:
                tell("error", "no category", f"{what} has the label {label!r}, which is no class")
                continue
            try:
                drawn = _drawn(shape)
            except (ValueError, TypeError, KeyError, IndexError, OSError, binascii.Error) as error:
                tell("error", "unreadable labels", f"{what} cannot be read: {type(error).__name__}: {error}")
                continue
            if drawn is None:
                tell("warning", "polygon", f"{what} is a {shape['shape_type']}, which has no area, and is left out")
                continue
            patches, polygons = drawn
            outlines.append(Outline(what, self.index_of[label], polygons=polygons, pixels=patches))
            groups.append(shape.get("group_id"))
        return draw(merged(outlines, groups, height, width, tell), height, width, tell)


def _files(root: Path) -> dict[str, Path]:
    return {name_below(path, root): path for path in files_below(root, {".json"})}


def _read(path: Path) -> dict[str, Any]:
    content = read_json(path, SegmentError)
    shapes = content.get("shapes") if isinstance(content, dict) else None
    if not isinstance(shapes, list) or not all(isinstance(one, dict) and "label" in one for one in shapes):
        refuse(path, "is not labelme's: it should hold a list of shapes with labels")
    return content


class _Head(NamedTuple):
    """Of a file the labels that it has, and its picture: where it says, else beside it under the same name."""

    labels: frozenset[str]
    picture: Path


def _head(path: Path) -> _Head:
    content = _read(path)
    picture = path.parent / str(content.get("imagePath") or "").replace("\\", "/")
    if not picture.is_file():
        beside = (one for one in sorted(path.parent.glob(f"{path.stem}.*")) if one.suffix.lower() in IMAGE_SUFFIXES)
        picture = next(beside, picture)
    return _Head(frozenset(str(shape["label"]) for shape in content["shapes"]), picture)


def _there(picture: Path, path: Path) -> Path:
    if not picture.is_file():
        raise FileNotFoundError(f"{picture} is not there, but {path.name} names it as its picture")
    return picture


def _bare(root: Path, files: Sequence[Path], head: Callable[[Path], _Head]) -> list[Path]:
    """The pictures that no file names.  The files are read only where some pictures have none beside them."""
    beside = {path.with_suffix("") for path in files}
    if all(path.with_suffix("") in beside for path in pictures_below(root)):
        return []
    return unlisted(root, (head(path).picture for path in files))


def _drawn(shape: dict[str, Any]) -> tuple[Patch | None, list[list[float]]] | None:
    """Pixels, or polygons, of a shape; None: it has no area."""
    points = [[float(x), float(y)] for x, y in shape["points"]]
    kind = shape.get("shape_type") or "polygon"
    if kind == "polygon":
        return None, [[value for point in points for value in point]]
    if kind == "rectangle":
        (x0, y0), (x1, y1) = points[0], points[-1] if len(points) == 2 else points[2]
        return None, [[x0, y0, x1, y0, x1, y1, x0, y1]]
    if kind == "circle":
        (x, y), edge = points
        radius = math.dist((x, y), edge)
        angles = np.linspace(0, 2 * math.pi, CORNERS, endpoint=False)
        return None, [np.stack((x + radius * np.cos(angles), y + radius * np.sin(angles)), 1).ravel().tolist()]
    if kind == "mask":
        with open_image(io.BytesIO(base64.b64decode(shape["mask"], validate=True))) as picture:
            return Patch(round(points[0][1]), round(points[0][0]), np.asarray(picture.convert("L")) > 0), []
    return None
