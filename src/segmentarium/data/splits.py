"""Which part of a data set a picture belongs to: by list files, or by a hash of its name where nothing divides it."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

PARTS = ("train", "val", "test")
LARGEST_YAML, MOST_VALUES = 2**20, 100_000
VAL_SHARE, TEST_SHARE = 0.1, 0.1  # of the pictures, where a hash divides them


def hash_split(name: str, val: float = VAL_SHARE, test: float = TEST_SHARE) -> str:
    """train, val or test for a picture's name, by its SHA-1: always the same, whatever else is in the folder.

    Of a name with accents every way of writing it (macOS takes the letters apart) gives the same part.
    """
    told = unicodedata.normalize("NFC", name).encode("utf-8", "surrogateescape")
    position = int(hashlib.sha1(told).hexdigest(), 16) / 16**40
    if position < val:
        return "val"
    return "test" if position < val + test else "train"


def hash_note(what: str, parts: Iterable[str], split: str) -> str:
    """The line that a data set divided by hash says of itself: what is divided, the parts' sizes, and which one it is."""
    counts = Counter(parts)
    sizes = ", ".join(f"{counts[part]} {part}" for part in PARTS if part in counts or part == "val")
    more = "" if split == "all" else " (split 'all' takes every picture)"
    return f"{what} is not divided: {sizes} by hash of the name; this is {split!r}{more}"


def wanted_parts(split: str) -> tuple[str, ...]:
    """The parts that a split is made of: trainval of two, all of three, any other of itself."""
    return {"trainval": ("train", "val"), "all": PARTS}.get(split, (split,))


def chosen(root: Path, names: Sequence[str], split: str, what: str) -> tuple[list[str], list[str]]:
    """Which pictures a split of a plain folder has, of all their paths below it without ending, and what is to be said of it.

    They are divided by what their paths begin with (train/…, val/…), else by train.txt, val.txt, … with a picture a line, else
    by a hash of the name.  "all" takes every picture.

    Raises:
        FileNotFoundError: the folder is divided, and has no such part; or a list names a picture that is not there.
    """
    if split == "all":
        return list(names), []
    wanted = wanted_parts(split)
    parts = {name: name.partition("/")[0] for name in names}
    if names and set(parts.values()) <= set(PARTS):
        absent = [part for part in wanted if part not in parts.values()]
        if absent:
            there = ", ".join(sorted(set(parts.values())))
            raise FileNotFoundError(f"{root} is divided into {there}, but has no pictures for {absent[0]!r}")
        return [name for name in names if parts[name] in wanted], []
    lists = [part for part in PARTS if (root / f"{part}.txt").is_file()]
    if not lists:
        found = [name for name in names if hash_split(name) in wanted]
        return found, [hash_note(what, map(hash_split, names), split)]
    absent = [part for part in wanted if part not in lists]
    if absent:
        raise FileNotFoundError(f"{root} has {', '.join(f'{p}.txt' for p in lists)}, but no {absent[0]}.txt")
    known = {ending: name for name in names for ending in (name, name.rpartition("/")[2])} | {
        name: name for name in names
    }
    lines = [line for part in wanted for line in read_lines(root / f"{part}.txt")]
    found = [known.get(line, known.get(line.rpartition(".")[0], "")) for line in lines]
    unknown = [line for line, name in zip(lines, found, strict=True) if not name]
    if unknown:
        raise FileNotFoundError(
            f"{root}: {len(unknown)} names in {', '.join(f'{p}.txt' for p in wanted)} have no picture: "
            f"{', '.join(unknown[:5])}; write a picture a line"
        )
    return found, []


def check_split(split: str, splits: Sequence[str], name: str) -> None:
    """Raise a ValueError that lists the splits of a data set if `split` is none of them."""
    if split not in splits:
        raise ValueError(f"data set {name!r} has no split {split!r}; choose one of {', '.join(splits)}")


def read_text(path: Path) -> str:
    """A text file of any editor: UTF-8 with or without a mark at its beginning, or UTF-16 with one (PowerShell's).

    Raises:
        ValueError: it is neither; names the file.
    """
    content = path.read_bytes()
    encoding = "utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is no text in UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from error


def read_json(path: Path) -> Any:
    """What a file of JSON holds.  ValueError that names the file for what is none, or lies too deep in itself."""
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        reason = "its brackets lie too deep in each other" if isinstance(error, RecursionError) else str(error)
        raise ValueError(f"{path} is no JSON: {reason}") from None


def read_yaml(path: Path) -> Any:
    """What a small file of YAML holds, as plain values.  ValueError that names the file, ImportError without PyYAML.

    Names of values (anchors) may be used, but not to write down more than a large file could hold: each may name several
    times what itself names several.
    """
    try:
        import yaml
    except ImportError as error:
        raise ImportError(f"reading {path} needs PyYAML: pip install pyyaml") from error
    if (size := path.stat().st_size) > LARGEST_YAML:
        raise ValueError(f"{path} has {size:,} bytes; a list of classes in YAML has {LARGEST_YAML:,} at the most")
    try:
        content = yaml.load(read_text(path), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        if _values(content, {}) > MOST_VALUES:
            raise ValueError(f"{path} names its values again and again: written out they are more than {MOST_VALUES:,}")
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    except RecursionError:
        raise ValueError(f"{path} is no list: its values lie too deep in each other, or in themselves") from None
    return content


def _values(value: Any, known: dict[int, int]) -> int:
    """How many values there would be without names.  RecursionError for what holds itself."""
    if not isinstance(value, list | dict):
        return 1
    if id(value) not in known:
        parts = value if isinstance(value, list) else [*value, *value.values()]
        known[id(value)] = 1 + sum(_values(part, known) for part in parts)
    return known[id(value)]


def read_lines(path: Path) -> list[str]:
    """The lines of a split list; empty ones and those that begin with # are skipped.

    Raises:
        FileNotFoundError: there is no such list.
        ValueError: the list names nothing, or is no text.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; it should list the names of the split, one a line")
    lines = [line.strip() for line in read_text(path).splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines:
        raise ValueError(f"{path} names no pictures")
    return lines


def read_list(path: Path) -> list[str]:
    """The first word of each line of a published split list; raises as `read_lines` does."""
    return [line.split()[0] for line in read_lines(path)]
