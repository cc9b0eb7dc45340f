"""Pictures that no label names, and pictures in no part of a data set: they are left out, and told.

Of a labelling tool's export, nobody may have come to a picture that no label names, or it may show nothing of what is drawn: no
file says which.  So they are left out, counted and named, unless the data set's option `background` says that they show nothing;
YOLO's, whose form has no other way to say it, are always taken so.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from segmentarium.data.finding import name_below, pictures_below
from segmentarium.data.splits import dividable

NAMED = 3  # that a note names


def unlisted(folder: Path, listed: Iterable[Path]) -> list[Path]:
    """The pictures below a folder that are none of the listed ones, by whatever way these are written."""
    listed = list(listed)
    known = {os.path.normpath(path) for path in listed}
    rest = [path for path in pictures_below(folder) if os.path.normpath(path) not in known]
    if rest:  # which asks the disk for each: there may be links
        known = {os.path.realpath(path) for path in listed}
        rest = [path for path in rest if os.path.realpath(path) not in known]
    return rest


def named_as(
    paths: Iterable[Path], folder: Path, names: Mapping[str, object], endings: bool = False
) -> dict[str, Path]:
    """Name -> picture, of those that a folder with these names can be divided with.

    endings   whether names have the files' endings; else only those of pictures that would share a name
    """
    found: dict[str, Path] = {}
    for path in paths:
        whole = path.relative_to(folder).as_posix()
        name = whole if endings else name_below(path, folder)
        found[whole if name in names or name in found else name] = path
    return {name: found[name] for name in dividable(list(names), list(found))}


def note_of_parts(folders: Iterable[Path], names: Iterable[str] = ("images",)) -> list[str]:
    """The line on pictures that lie beside the folders of the parts, images/train/ and images/val/, and so in none of them.

    names   of folders that hold those of the parts
    """
    folders = list(folders)
    parents = dict.fromkeys(folder.parent for folder in folders if folder.parent.name in names)
    left = [
        path
        for parent in parents
        for path in pictures_below(parent)
        if not any(path.is_relative_to(folder) for folder in folders)
    ]
    if not left:
        return []
    parts = " and ".join(f"{folder.parent.name}/{folder.name}/" for folder in folders)
    return [f"{len(left)} pictures lie beside {parts} and are left out: {_shown(left)}; move them into one of these"]


def note_of(left_out: Sequence[Path], taken: int, what: str) -> list[str]:
    """The lines that a data set says of pictures that have no `what`."""
    lines = [f"{taken} pictures have no {what}, and so no object"] if taken else []
    if left_out:
        lines.append(
            f"{len(left_out)} pictures have no {what} and are left out: {_shown(left_out)}; if they show no object, "
            "--data-set-options background=true (background=True in Python) takes them"
        )
    return lines


def _shown(paths: Sequence[Path]) -> str:
    return ", ".join(path.name for path in paths[:NAMED]) + (", …" if len(paths) > NAMED else "")
