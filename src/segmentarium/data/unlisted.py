"""Pictures of a labelling tool's export that no label names: nobody has come to them yet, or they show nothing of what is drawn.

Which of the two it is no file says.  So they are left out, counted and named, unless the data set's option `background` says that
they show nothing; YOLO's, whose form has no other way to say it, are always taken so.
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


def note_of(left_out: Sequence[Path], taken: int, what: str) -> list[str]:
    """The lines that a data set says of pictures that have no `what`."""
    lines = [f"{taken} pictures have no {what}, and so no object"] if taken else []
    if left_out:
        shown = ", ".join(path.name for path in left_out[:NAMED]) + (", …" if len(left_out) > NAMED else "")
        lines.append(
            f"{len(left_out)} pictures have no {what} and are left out: {shown}; if they show no object, "
            "--data-set-options background=true (background=True in Python) takes them"
        )
    return lines
