"""Names, colours and raw values of a user's own classes, from classes.txt or classes.yaml."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segmentarium.data.base import DatasetInfo
from segmentarium.data.mask_io import RGB, MaskEncoding, parse_mask_map
from segmentarium.data.text_files import read_text, read_yaml
from segmentarium.labels import IGNORE_INDEX
from segmentarium.palette import default_palette

_RGB = r"(?P<rgb>\d+[\s,;]+\d+[\s,;]+\d+|#[0-9a-fA-F]{6})"
_COLOURED = (
    re.compile(rf"(?P<name>.+?):{_RGB}(:.*)?"),  # cat:48,112,32:: of CVAT
    re.compile(rf"(?P<name>.+?)[\s,;]+{_RGB}"),  # road 128 64 128
    re.compile(rf"{_RGB}[\s,;]+(?P<name>\D.*)"),  # 128 64 128 road, of CamVid
)
_COLUMNS = re.compile(
    r"(name|class|label)\s*[,;]\s*r(ed)?\s*[,;]\s*g(reen)?\s*[,;]\s*b(lue)?|pixel value\s*[,;]\s*(class|name|label)",
    re.IGNORECASE,
)
FILES = (
    "classes.txt", "classes.yaml", "classes.yml", "class_dict.csv", "classes.csv", "_classes.csv", "train/_classes.csv",
    "labelmap.txt", "label_colors.txt", "labels.txt", "data.yaml", "data.yml",
)  # fmt: skip
LONGEST_NAME = 1000  # letters of a line
IGNORED = "__ignore__"  # of labelme: what is drawn under this name counts nowhere
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class ClassTable:
    """What classes.txt or classes.yaml says; `coloured` if it gave colours, which then also decode masks."""

    classes: tuple[str, ...]
    palette: tuple[RGB, ...]
    coloured: bool = False
    mask_map: dict[int, int] | None = None
    ignore_colours: tuple[RGB, ...] = ()

    def info(self, name: str) -> DatasetInfo:
        return DatasetInfo(name, self.classes, self.palette, licence="your own")

    def encoding(self) -> MaskEncoding:
        colours = {rgb: i for i, rgb in enumerate(self.palette)} if self.coloured else None
        if colours is not None:
            if len(colours) < len(self.palette):
                raise ValueError("two classes have the same colour in the palette; give each its own")
            colours |= dict.fromkeys(self.ignore_colours, IGNORE_INDEX)
        return MaskEncoding(len(self.classes), self.mask_map, colours)


def class_file(root: Path) -> Path | None:
    """The file in a folder that names its classes; None where there is none."""
    return next((root / name for name in FILES if (root / name).is_file()), None)


def read_classes(path: Path) -> ClassTable:
    """The classes in a text or YAML file.

    Text: a name a line, optionally with R G B or #rrggbb behind it, or R G B before it; a number 0, 1, 2, … before every
    name is left out, as are lines that begin with # and a head "name,r,g,b" or "Pixel Value, Class". So CVAT's labelmap.txt,
    CamVid's label_colors.txt, class_dict.csv and Roboflow's _classes.csv are read as they are, and of YOLO's data.yaml the
    names, and of labelme's labels.txt, whose `__ignore__` is no class (a colour of it is ignored). YAML:

        classes: [background, person]        # or entries of the form {name: person, colour: [255, 0, 0], value: 255};
                                             # {0: background, 1: person} and the key `names` are read too
        palette: [[0, 0, 0], [255, 0, 0]]    # optional
        mask_map: {0: 0, 255: 1}             # optional, or "0:0,255:1"; the same as `value` in the entries
        ignore_colours: [[255, 255, 255]]    # optional

    Raises:
        ValueError: no classes in it, or entries of another form.
    """
    table = _from_text(path) if path.suffix in (".txt", ".csv") else _from_yaml(path)
    if not table.classes:
        raise ValueError(f"{path} names zero classes; write one or more")
    if len(set(table.classes)) < len(table.classes):
        raise ValueError(f"{path} names a class twice")
    if len(table.palette) != len(table.classes):
        raise ValueError(f"{path} has {len(table.classes)} classes but {len(table.palette)} colours; give one a class")
    return table


def _from_text(path: Path) -> ClassTable:
    names: list[str] = []
    colours: list[RGB] = []
    lines = [line.strip() for line in read_text(path).splitlines()]
    lines = [line for line in lines if line and not line.startswith("#") and not _COLUMNS.fullmatch(line)]
    if too_long := next((line for line in lines if len(line) > LONGEST_NAME), None):
        raise ValueError(f"{path} has a line of {len(too_long):,} letters, {too_long[:20]!r}…; write a name a line")
    for line in lines:
        match = next((found for form in _COLOURED if (found := form.fullmatch(line))), None)
        names.append(match["name"].strip() if match else line)
        if match:
            rgb = match["rgb"]
            colours.append(
                as_colour(list(bytes.fromhex(rgb[1:])) if rgb.startswith("#") else _NUMBER.findall(rgb), path)
            )
    if colours and len(colours) != len(names):
        raise ValueError(f"{path}: {len(colours)} of {len(names)} classes have a colour; give all of them one, or none")
    ignored = tuple(rgb for name, rgb in zip(names, colours, strict=False) if name == IGNORED)
    colours = [rgb for name, rgb in zip(names, colours, strict=False) if name != IGNORED]
    names = [name for name in names if name != IGNORED]
    numbered = [re.fullmatch(r"(\d+)(?:\s*[:.,;]\s*|\s+)(.+)", name) for name in names]
    if names and all(numbered):
        if [int(match[1]) for match in numbered if match] != list(range(len(names))):
            raise ValueError(
                f"{path} numbers its classes, but not 0, 1, 2, …; write the names alone, in the order of the values"
            )
        names = [match[2] for match in numbered if match]
    return ClassTable(
        tuple(names), tuple(colours) or default_palette(len(names)), bool(colours), ignore_colours=ignored
    )


def _from_yaml(path: Path) -> ClassTable:
    content = read_yaml(path)
    content = {"classes": content} if isinstance(content, list) else content
    listed = content.get("classes", content.get("names")) if isinstance(content, dict) else None
    if isinstance(listed, dict) and list(listed) == list(range(len(listed))):
        listed = list(listed.values())
    if not isinstance(listed, list):
        raise ValueError(f"{path} has no list under `classes`")
    entries: list[dict[str, Any]] = [e if isinstance(e, dict) else {"name": e} for e in listed]
    if any("name" not in entry for entry in entries):
        raise ValueError(f"{path}: a class has no `name`")
    for entry in entries:
        if isinstance(entry["name"], bool) or entry["name"] is None:
            raise ValueError(f'{path}: YAML reads a class as {entry["name"]}; put its name in quotes, such as "no"')
    names = tuple(str(entry["name"]) for entry in entries)
    colours = [entry.get("colour", entry.get("color")) for entry in entries]
    colours = [c for c in colours if c is not None] or content.get("palette") or []
    palette = tuple(as_colour(c, path) for c in colours)
    without = [entry["name"] for entry in entries if "value" not in entry]
    if without and len(without) < len(entries):
        raise ValueError(
            f"{path}: {', '.join(map(str, without))} has no `value`, others have; give all classes one, or none"
        )
    given = [entry.get("value", []) for entry in entries]
    try:
        values = {int(v): i for i, value in enumerate(given) for v in (value if isinstance(value, list) else [value])}
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: the `value` of a class is no number and no list of numbers: {error}") from error
    mask_map: Any = values or content.get("mask_map")
    return ClassTable(
        names,
        palette or default_palette(len(names)),
        bool(palette),
        as_mask_map(mask_map, len(names)),
        tuple(as_colour(c, path) for c in content.get("ignore_colours", content.get("ignore_colors", []))),
    )


def as_colour(values: Sequence[Any], path: Path) -> RGB:
    """Three numbers 0..255; a ValueError that names the file where they are something else."""
    try:
        red, green, blue = (int(v) for v in values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {values!r} is no colour; write three numbers, R G B") from error
    if not all(0 <= v <= 255 for v in (red, green, blue)):
        raise ValueError(f"{path}: the colour {red} {green} {blue} is outside 0..255")
    return red, green, blue


def as_mask_map(value: Mapping[int, int] | str | None, num_classes: int) -> dict[int, int] | None:
    """Raw value -> class index, from a mapping or from text; None and "" give None."""
    if value is None or value == "":
        return None
    if isinstance(value, str):
        return parse_mask_map(value, num_classes)
    if not isinstance(value, Mapping):
        raise ValueError(f'the mask map is {value!r}; give raw value -> class, as a mapping or as text "0:0,255:1"')
    return {int(raw): int(label) for raw, label in value.items()}
