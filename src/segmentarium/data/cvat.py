"""Objects drawn with CVAT, exported as "CVAT for images 1.1": annotations.xml, and the pictures in images/.

Polygons, boxes, ellipses and masks become objects; lines and points have no area.  Shapes of one label and one group are one
object in several pieces.  Classes are the labels of the task in their order, else those that occur, sorted.  Train, val and test
are the export's subsets of these names, else come from `train.txt` …, else from a hash of the name.
"""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from segmentarium.data.base import Transform, require_folder
from segmentarium.data.segments import Outline, SegmentDataset, SegmentItem, Tell, draw, merged, refuse, segment_info
from segmentarium.data.splits import check_split, chosen, part_called, scored_part
from segmentarium.data.unlisted import named_as, note_of, unlisted
from segmentarium.rle import Patch

SPLITS = ("train", "val", "trainval", "test", "all")
FILE = "annotations.xml"
SHAPES = ("polygon", "box", "ellipse", "mask", "polyline", "points", "cuboid", "skeleton")
NOTHING = ElementTree.Element("image")  # what would stand in the file of a picture without an object
CORNERS = 64  # of the polygon that an ellipse is drawn as


class Cvat(SegmentDataset):
    """An export of CVAT; every class is a thing.

    background: pictures that the file does not list are taken as ones without an object; else they are left out, and told
        (`unlisted`).

    Raises:
        FileNotFoundError: no annotations.xml, or its first picture is not there.
        SegmentError: a file that is none of CVAT's.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        transform: Transform | None = None,
        cache: bool = False,
        background: bool = False,
    ) -> None:
        check_split(split, SPLITS, "cvat")
        root = require_folder(Path(root), "annotations.xml and images/")
        path = root / FILE
        tree, named, divided = _read(path)
        images = list(tree.iter("image"))
        folder = root / "images" if (root / "images").is_dir() else root
        bare = unlisted(folder, (_picture(folder, one) for one in images))
        more = named_as(bare, folder, named, endings=divided) if background else {}
        found, notes = chosen(root, [*named, *more], split, f"folder {root.resolve().name}")
        items = [
            SegmentItem(more[name] if name in more else _picture(folder, one), path, one, name)
            for name in found
            for one in named.get(name, [NOTHING])
        ]
        if not items:
            raise FileNotFoundError(f"{path} has no pictures for split {split!r}")
        if not items[0].image.is_file():
            raise FileNotFoundError(f"{items[0].image} is not there, but {path.name} has it")
        labels = tree.findall(".//labels/label")
        classes = [str(one.findtext("name")) for one in labels if one.findtext("type") not in ("tag", "points")]
        colours = [_colour(one.findtext("color")) for one in labels if one.findtext("type") not in ("tag", "points")]
        palette = [one for one in colours if one is not None]
        if not classes:
            classes = sorted({str(shape.get("label")) for one in images for shape in one if shape.tag in SHAPES})
            if not classes:
                refuse(path, "names no labels and has no shapes")
        self.index_of = {name: i for i, name in enumerate(classes)}
        palette = palette if len(palette) == len(classes) else []
        super().__init__(segment_info(root.resolve().name, classes, palette, "your own"), items, None, transform, cache)
        self.unlisted = [path for path in bare if path not in more.values()]
        self.notes += [*notes, *note_of(self.unlisted, sum(name in more for name in found), f"entry in {FILE}")]

    @classmethod
    def evaluation_split(cls, root: Path) -> str:
        """test where the export is divided and has one with objects, else val."""
        if not (root / FILE).is_file():
            return "val"
        _, named, _ = _read(root / FILE)
        part = scored_part(root, list(named))
        found, _ = chosen(root, list(named), part, "") if part == "test" else ([], [])
        return part if any(shape.tag in SHAPES for name in found for one in named[name] for shape in one) else "val"

    def annotate(self, item: SegmentItem, height: int, width: int, tell: Tell) -> tuple[np.ndarray, np.ndarray]:
        said = int(item.entry.get("width", width)), int(item.entry.get("height", height))
        if said != (width, height):
            tell("error", "size", f"{item.image} has {width} x {height} pixels, but the XML says {said[0]} x {said[1]}")
        outlines, groups = [], []
        for place, shape in enumerate((one for one in item.entry if one.tag in SHAPES), 1):
            what = f"{shape.tag} {place} of {item.image.name}"
            label = str(shape.get("label"))
            if label not in self.index_of:
                tell("error", "no category", f"{what} has the label {label!r}, which the task does not define")
                continue
            try:
                drawn = _drawn(shape)
            except (ValueError, TypeError, KeyError) as error:
                tell("error", "unreadable labels", f"{what} cannot be read: {type(error).__name__}: {error}")
                continue
            if drawn is None:
                tell("warning", "polygon", f"{what} has no area, and is left out")
                continue
            pixels, polygons = drawn
            outlines.append(Outline(what, self.index_of[label], polygons=polygons, pixels=pixels))
            groups.append(shape.get("group_id") if shape.get("group_id") not in (None, "", "0") else None)
        return draw(merged(outlines, groups, height, width, tell), height, width, tell)


def _read(path: Path) -> tuple[ElementTree.Element, dict[str, list[ElementTree.Element]], bool]:
    """The file's root, its pictures by name, and whether all of them have a subset, which then stands before the name."""
    if not path.is_file():
        raise FileNotFoundError(f'{path} does not exist; export the task as "CVAT for images 1.1", with images')
    try:
        tree = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        refuse(path, f"is no XML: {error}")
    images = list(tree.iter("image"))
    if not images:
        refuse(path, 'has no <image>: is it "CVAT for video"? Export "CVAT for images 1.1"')
    subsets = [part_called(str(one.get("subset", ""))) for one in images]
    divided = all(subsets)
    named: dict[str, list[ElementTree.Element]] = defaultdict(list)  # a.jpg and a.png have one name
    for one, subset in zip(images, subsets, strict=True):
        name = str(one.get("name"))
        named[f"{subset}/{name}" if divided else os.path.splitext(name)[0]].append(one)
    return tree, named, divided


def _picture(folder: Path, image: ElementTree.Element) -> Path:
    """Exports of several subsets have a folder for each."""
    name, subset = str(image.get("name")), str(image.get("subset", ""))
    inner = folder / subset / name
    return inner if subset and inner.is_file() else folder / name


def _colour(text: str | None) -> tuple[int, int, int] | None:
    if text is None or len(text) != 7:
        return None
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)


def _drawn(shape: ElementTree.Element) -> tuple[Patch | None, list[list[float]]] | None:
    """Pixels, or polygons, of a shape; None: it has no area."""
    said = shape.attrib
    if shape.tag == "polygon":
        return None, [[float(value) for point in said["points"].split(";") for value in point.split(",")]]
    if shape.tag == "box":
        x0, y0, x1, y1 = (float(said[name]) for name in ("xtl", "ytl", "xbr", "ybr"))
        return None, [_turned(np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]]), said)]
    if shape.tag == "ellipse":
        x, y, wide, high = (float(said[name]) for name in ("cx", "cy", "rx", "ry"))
        angles = np.linspace(0, 2 * math.pi, CORNERS, endpoint=False)
        return None, [_turned(np.stack((x + wide * np.cos(angles), y + high * np.sin(angles)), 1), said)]
    if shape.tag == "mask":  # runs along the rows of its box, the first of pixels outside
        left, top, wide, high = (int(said[name]) for name in ("left", "top", "width", "height"))
        runs = np.array([int(value) for value in said["rle"].split(",")], np.int64)
        if (runs < 0).any() or runs.sum() != wide * high:
            raise ValueError(f"its runs have {runs.sum()} pixels, its box {wide} x {high}")
        return Patch(top, left, np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(high, wide)), []
    return None


def _turned(corners: np.ndarray, said: Mapping[str, str]) -> list[float]:
    """Corners (N, 2) turned about their middle by the shape's `rotation`, degrees clockwise as one sees it: x, y, x, y, …"""
    if angle := math.radians(float(said.get("rotation", 0))):
        cos, sin, middle = math.cos(angle), math.sin(angle), corners.mean(0)
        corners = (corners - middle) @ np.array([[cos, sin], [-sin, cos]]) + middle
    return corners.ravel().tolist()
