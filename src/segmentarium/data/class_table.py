"""Names, colours and raw values of a user's own classes, from classes.txt or classes.yaml."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segmentarium.data.base import DatasetInfo
from segmentarium.data.mask_io import IGNORE_INDEX, RGB, MaskEncoding, parse_mask_map
from segmentarium.palette import default_palette


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


def read_classes(path: Path) -> ClassTable:
    """The classes in a text or YAML file.

    Text: a name a line, optionally followed by R G B; lines that begin with # are skipped. YAML:

        classes: [background, person]        # or entries of the form {name: person, colour: [255, 0, 0], value: 255}
        palette: [[0, 0, 0], [255, 0, 0]]    # optional
        mask_map: {0: 0, 255: 1}             # optional, or "0:0,255:1"; the same as `value` in the entries
        ignore_colours: [[255, 255, 255]]    # optional

    Raises:
        ValueError: no classes in it, or entries of another form.
    """
    table = _from_text(path) if path.suffix == ".txt" else _from_yaml(path)
    if not table.classes:
        raise ValueError(f"{path} names zero classes; write one or more")
    if len(set(table.classes)) < len(table.classes):
        raise ValueError(f"{path} names a class twice")
    if len(table.palette) != len(table.classes):
        raise ValueError(f"{path} has {len(table.classes)} classes but {len(table.palette)} colours; give one a class")
    return table


def _from_text(path: Path) -> ClassTable:
    names, colours = [], []
    for line in path.read_text(encoding="utf-8-sig").splitlines():
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        match = re.fullmatch(r"(.+?)[\s,;]+(\d+)[\s,;]+(\d+)[\s,;]+(\d+)", text)
        names.append(match[1] if match else text)
        if match:
            colours.append(as_colour([match[2], match[3], match[4]], path))
    if colours and len(colours) != len(names):
        raise ValueError(f"{path}: {len(colours)} of {len(names)} classes have a colour; give all of them one, or none")
    return ClassTable(tuple(names), tuple(colours) or default_palette(len(names)), bool(colours))


def _from_yaml(path: Path) -> ClassTable:
    try:
        import yaml
    except ImportError as error:
        raise ImportError(f"reading {path} needs PyYAML: pip install pyyaml, or write classes.txt") from error
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    content = {"classes": content} if isinstance(content, list) else content
    if not isinstance(content, dict) or not isinstance(content.get("classes"), list):
        raise ValueError(f"{path} has no list under `classes`")
    entries: list[dict[str, Any]] = [e if isinstance(e, dict) else {"name": e} for e in content["classes"]]
    if any("name" not in entry for entry in entries):
        raise ValueError(f"{path}: a class has no `name`")
    names = tuple(str(entry["name"]) for entry in entries)
    colours = [entry.get("colour", entry.get("color")) for entry in entries]
    colours = [c for c in colours if c is not None] or content.get("palette") or []
    palette = tuple(as_colour(c, path) for c in colours)
    values = {int(entry["value"]): i for i, entry in enumerate(entries) if "value" in entry}
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
