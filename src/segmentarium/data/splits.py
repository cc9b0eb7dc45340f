"""Which part of a data set a picture belongs to: by list files, or by a hash of its name where nothing divides it."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from segmentarium.data.text_files import read_lines

PARTS = ("train", "val", "test")
PART_NAMES = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
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


def part_called(name: str) -> str | None:
    """train, val or test, by what tools call it: valid and validation are val; None: it is no part's name."""
    return next((part for part, names in PART_NAMES.items() if name.lower() in names), None)


def wanted_parts(split: str) -> tuple[str, ...]:
    """The parts that a split is made of: trainval of two, all of three, any other of itself."""
    return {"trainval": ("train", "val"), "all": PARTS}.get(split, (split,))


def chosen(root: Path, names: Sequence[str], split: str, what: str) -> tuple[list[str], list[str]]:
    """Which pictures a split of a plain folder has, of all their paths below it without ending, and what is to be said of it.

    They are divided by what their paths begin with (train/…, val/… or valid/…), else by train.txt, val.txt, … with a picture a
    line, with or without images/ before it, else by a hash of the name.  "all" takes every picture.

    Raises:
        FileNotFoundError: the folder is divided, and has no such part; or a list names a picture that is not there.
    """
    if split == "all":
        return list(names), []
    wanted = wanted_parts(split)
    parts = _folders(names)
    if parts:
        absent = [part for part in wanted if part not in parts.values()]
        if absent:
            there = ", ".join(part for part in PARTS if part in parts.values())
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
    found = [next((known[text] for text in _spellings(line) if text in known), "") for line in lines]
    unknown = [line for line, name in zip(lines, found, strict=True) if not name]
    if unknown:
        raise FileNotFoundError(
            f"{root}: {len(unknown)} names in {', '.join(f'{p}.txt' for p in wanted)} have no picture: "
            f"{', '.join(unknown[:5])}; write a picture a line"
        )
    return found, []


def dividable(names: Sequence[str], more: Sequence[str]) -> list[str]:
    """Of further names those with which names are divided as without them: where folders divide, those in a part's."""
    return [name for name in more if name in _folders([name])] if _folders(names) else list(more)


def scored_part(root: Path, names: Sequence[str]) -> str:
    """What is scored where nobody says: test where a folder of these names is divided, as by `chosen`, and has one, else val."""
    parts = _folders(names)
    return "test" if ("test" in parts.values() if parts else (root / "test.txt").is_file()) else "val"


def _folders(names: Iterable[str]) -> dict[str, str]:
    """The part of each name, where the first folders of all of them are parts; else nothing."""
    parts = {name: part_called(name.partition("/")[0]) if "/" in name else None for name in names}
    return {name: part for name, part in parts.items() if part} if all(parts.values()) else {}


def _spellings(line: str) -> Iterator[str]:
    """What a line of a list may call a picture: its name, with or without ending, and with or without images/ before it."""
    for text in (line, line.removeprefix("./").removeprefix("images/")):
        yield text
        yield text.rpartition(".")[0]


def check_split(split: str, splits: Sequence[str], name: str) -> None:
    """Raise a ValueError that lists the splits of a data set if `split` is none of them."""
    if split not in splits:
        raise ValueError(f"data set {name!r} has no split {split!r}; choose one of {', '.join(splits)}")
