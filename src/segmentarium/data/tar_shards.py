"""Shards of WebDataset: tars in which the members of a sample have one name up to the first dot, one behind the other."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from segmentarium.data.image_io import IMAGE_SUFFIXES
from segmentarium.data.stored import LABEL_NAMES, PICTURE_NAMES, Listing, ShardError, Stored

LARGEST = 2**30  # bytes of one picture in a shard


class Member(Stored):
    """A member of a tar."""

    def __init__(self, container: Path, inner: str, offset: int, length: int) -> None:
        super().__init__(container, inner, length)
        self.offset = offset

    def read(self) -> bytes:
        with open(self.container, "rb") as file:
            file.seek(self.offset)
            content = file.read(self.length)
        if len(content) < self.length:
            raise OSError(f"{self} has {len(content)} of its {self.length} bytes: the shard is cut off")
        return content


def tar_samples(shard: Path) -> Iterator[tuple[str, dict[str, tuple[int, int]]]]:
    """(key, {ending: (offset, bytes)}) of each sample: members of one name up to its first dot, one behind the other.

    Raises ShardError for what is no plain tar, or is cut off.
    """
    size = shard.stat().st_size
    key, members = None, dict[str, tuple[int, int]]()
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                archive.members.clear()  # type: ignore[attr-defined] - which would grow with the shard
                if not member.isreg():
                    continue
                if member.issparse() or member.size > LARGEST or member.offset_data + member.size > size:
                    raise ShardError(f"{shard}: {member.name} is cut off, sparse, or larger than {LARGEST:,} bytes")
                folder, _, name = member.name.removeprefix("./").rpartition("/")  # as `tar c .` writes them
                stem, _, ending = name.partition(".")
                if not stem or not ending:
                    continue  # hidden, as macOS leaves them, or of no kind
                whole = f"{folder}/{stem}" if folder else stem
                if whole != key:
                    if key is not None:
                        yield key, members
                    key, members = whole, {}
                members[ending.lower()] = (member.offset_data, member.size)
    except (tarfile.TarError, OSError, EOFError, UnicodeError) as error:
        raise ShardError(f"{shard} cannot be read as a tar: {error}") from error
    if key is not None:
        yield key, members


def picture_and_label(endings: Sequence[str], classes: bool) -> tuple[str | None, str | None]:
    """Which of a sample's endings are its picture and its label."""
    label = next((e for e in endings if e in (("cls", "cls.txt") if classes else ("npy",))), None)
    pictures = []
    for ending in endings:
        first, dot, last = ending.partition(".")
        if f".{last if dot else first}" not in IMAGE_SUFFIXES and not (dot and last == "npy" and first in LABEL_NAMES):
            continue
        if dot and first in LABEL_NAMES:
            label = label if classes else ending
        elif not dot or first in PICTURE_NAMES:
            pictures.append(ending)
    if not classes and label is None and len(pictures) == 2 and "png" in pictures:
        label = "png"  # NAME.png beside NAME.jpg
        pictures.remove("png")
    return (pictures[0] if len(pictures) == 1 else None), label


def list_tars(shards: Sequence[Path], wanted: Callable[[Path, str], bool], classes: bool) -> Tars:
    """The wanted samples (of a shard, of a key) of tars.  Raises ShardError."""
    keys: list[str] = []
    endings: list[str] = []  # few, and each kept once
    rows: list[np.ndarray] = []
    for number, shard in enumerate(shards):
        found: list[tuple[int, ...]] = []
        for key, members in tar_samples(shard):
            picture, label = picture_and_label(list(members), classes)
            if picture is None:
                raise ShardError(
                    f"{shard}: sample {key!r} has {', '.join(members)}; expected one picture and its label"
                )
            if not wanted(shard, key):
                continue
            for ending in (picture, label):
                if ending is not None and ending not in endings:
                    endings.append(ending)
            own = (-1, 0, 0) if label is None else (*members[label], endings.index(label))
            keys.append(key)
            found.append((number, *members[picture], endings.index(picture), *own))
        rows.append(np.array(found, np.int64).reshape(-1, 7))
    return Tars(keys, shards, np.concatenate(rows), classes, endings)


class Tars(Listing):
    """Rows of shard, and of picture and label each offset (-1: there is none), bytes and ending."""

    def __init__(
        self, keys: list[str], shards: Sequence[Path], table: np.ndarray, classes: bool, endings: list[str]
    ) -> None:
        super().__init__(keys, shards, table, classes)
        self.endings = endings

    def stored(self, index: int, label: bool) -> Stored | int | None:
        shard, *places = self.table[index].tolist()
        offset, length, ending = places[3:] if label else places[:3]
        if offset < 0:
            return None
        member = Member(self.shards[shard], f"{self.keys[index]}.{self.endings[ending]}", offset, length)
        return _class_of(member) if self.classes and label else member


def _class_of(member: Stored) -> int:
    try:
        return int(member.read()[:32].decode("ascii").strip())
    except ValueError:
        raise ShardError(f"{member} is no number of a class") from None
