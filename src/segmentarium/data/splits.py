"""Which part of a data set a picture belongs to: by list files, or by a hash of its name where nothing divides it."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

PARTS = ("train", "val", "test")
VAL_SHARE, TEST_SHARE = 0.1, 0.1  # of the pictures, where a hash divides them


def hash_split(name: str, val: float = VAL_SHARE, test: float = TEST_SHARE) -> str:
    """train, val or test for a picture's name, by its SHA-1: always the same, whatever else is in the folder.

    Of a name with accents every way of writing it (macOS takes the letters apart) gives the same part.
    """
    position = int(hashlib.sha1(unicodedata.normalize("NFC", name).encode()).hexdigest(), 16) / 16**40
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
