"""Millions of pictures in few large files: shards of WebDataset (tar) and of Parquet, read as they lie.

    --data webdataset --root 'shards/train-{000..099}.tar'     NAME.jpg beside NAME.mask.png (or NAME.png, .seg.png, .npy)
    --data parquet --root tables/                              a column of pictures and one of label images
    --data webdataset_classes, parquet_classes                 NAME.cls, or a column of numbers: a class a picture

`--root` is a folder, a file, or a pattern with {000..099}, {a,b}, * and ?.  Shards whose names or folders begin with train, val
or test are these parts; others are divided by a hash of the samples' names.  classes.txt lies beside them, as in a folder.

Nothing is unpacked: where each sample lies is read once, at the start, and samples are then read by their number, so that a run
resumes exactly and no process sees what another has seen.  The order of a pass keeps samples near that lie near: shards (of
Parquet row groups) come in random order, and samples are shuffled among the `shuffle` that follow one another.
"""

from __future__ import annotations

import glob
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from segmentarium.data.base import (
    ClassificationDataset,
    DatasetInfo,
    Item,
    LabelledPicture,
    SegmentationDataset,
    Transform,
)
from segmentarium.data.class_table import class_file, read_classes
from segmentarium.data.folder import class_table, refuse_black_and_white
from segmentarium.data.mask_io import RGB
from segmentarium.data.parquet_shards import list_tables
from segmentarium.data.splits import PARTS, check_split, hash_note, hash_split, wanted_parts
from segmentarium.data.stored import Listing, ShardError
from segmentarium.data.tar_shards import list_tars
from segmentarium.palette import default_palette

SPLITS = ("train", "val", "trainval", "test", "all")
SHUFFLE = 4096  # samples that lie near and are shuffled with each other
PROBED = 16  # label images that are looked at for values that are no classes

_PART = re.compile(r"(train|val|test)(?:ing|id|idation)?(?![a-z])", re.IGNORECASE)


def shards_of(root: str | Path, endings: Sequence[str]) -> list[Path]:
    """The files that a folder, a file or a pattern names, in order.  FileNotFoundError where there is none."""
    text = str(root)
    if Path(root).is_dir():
        found = sorted(p for p in Path(root).rglob("*") if p.suffix.lower() in endings and p.is_file())
    else:
        found = [Path(one) for pattern in _braces(text) for one in sorted(glob.glob(pattern)) or [pattern]]
    lost = [str(path) for path in found if not path.is_file()]
    if lost or not found:
        what = (
            f"{', '.join(lost[:3])}{', …' if len(lost) > 3 else ''} is not there" if lost else f"no {endings[0]} in it"
        )
        raise FileNotFoundError(
            f"{text}: {what}; give a folder of shards, or a pattern such as 'train-{{000..099}}{endings[0]}'"
        )
    wrong = [path for path in found if path.suffix.lower() not in endings]
    if wrong:
        raise ShardError(
            f"{wrong[0]} is no shard: expected a plain {' or '.join(endings)}, and "
            "nothing can be read from the middle of a compressed one"
        )
    return found


def _braces(pattern: str) -> list[str]:
    """ "a-{08..10}" -> ["a-08", "a-09", "a-10"], "{x,y}" -> ["x", "y"]"""
    choices: list[list[str]] = []
    for part in re.split(r"(\{[^{}]*\})", pattern):
        if span := re.fullmatch(r"\{(\d+)\.\.(\d+)\}", part):
            numbers = range(int(span[1]), int(span[2]) + 1)
            choices.append([str(i).zfill(len(span[1])) for i in numbers])
        elif part.startswith("{") and "," in part:
            choices.append(part[1:-1].split(","))
        else:
            choices.append([part])
    return ["".join(one) for one in itertools.product(*choices)]


def part_of(shard: Path) -> str | None:
    """train, val or test, by how a shard's name or that of its folder begins; None: neither says so."""
    for text in (shard.name, shard.parent.name):
        if found := _PART.match(text):
            return found[1].lower()
    return None


_KINDS = {"webdataset": ((".tar",), list_tars), "parquet": ((".parquet", ".pq"), list_tables)}


def open_shards(kind: str, root: str | Path, split: str, classes: bool) -> tuple[Listing, Path, list[str]]:
    """(what a split has, the folder beside which classes are named, what is to be said of the division)"""
    check_split(split, SPLITS, kind)
    endings, listing = _KINDS[kind]
    shards = shards_of(root, endings)
    parts = {shard: part_of(shard) for shard in shards}
    chosen, notes, told = wanted_parts(split), list[str](), list[str]()
    if all(parts.values()):
        shards = [shard for shard in shards if parts[shard] in chosen]
        if not shards:
            there = ", ".join(part for part in PARTS if part in parts.values())
            raise FileNotFoundError(f"{root} is divided into {there}, but has no shards for {chosen[0]!r}")
        found = listing(shards, lambda *_: True, classes)
    else:

        def wanted(_: Path, key: str) -> bool:
            told.append(hash_split(key))
            return told[-1] in chosen

        found = listing(shards, wanted, classes)
        notes.append(hash_note(f"{root}", told, split))
    if not found.keys:
        raise FileNotFoundError(f"{root} has no samples in split {split!r}; use the split 'all'")
    base = Path(root)
    while not base.is_dir():
        base = base.parent
    return found, base, notes


class _Items(Sequence[Any]):
    """Where the samples lie, each made when it is asked for."""

    def __init__(self, length: int, make: Callable[[int], Any]) -> None:
        self._length, self._make = length, make

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self._make(i) for i in range(*index.indices(self._length))]
        if not -self._length <= index < self._length:
            raise IndexError(index)
        return self._make(index % self._length)


class _Shards:
    """What data sets in shards have in common."""

    kind: ClassVar[str]
    takes_patterns: ClassVar[bool] = True
    listing: Listing
    shuffle: int

    @classmethod
    def evaluation_split(cls, root: Path) -> str:
        """test where there are shards of it, else val."""
        return "test" if "test" in map(part_of, shards_of(root, _KINDS[cls.kind][0])) else "val"

    def name(self, index: int) -> str:
        return self.listing.keys[index]

    def order(self, random: np.random.Generator) -> np.ndarray:
        """The order (length,) of a pass: groups at random, then shuffled among those that follow one another."""
        group = self.listing.group
        place = random.permutation(int(group.max()) + 1)[group]
        by_group = np.argsort(place, kind="stable")
        window = min(self.shuffle, self.listing.room or self.shuffle)
        return by_group[np.argsort(np.arange(len(group)) // window + random.random(len(group)))]


class WebDataset(_Shards, SegmentationDataset):
    """Tar shards of pictures and label images; see the head of this module.

    root      folder, file or pattern
    classes   names or their number; None reads classes.txt beside the shards
    shuffle   samples that lie near and are shuffled with each other
    strict    False leaves out samples without a label image

    Raises FileNotFoundError for shards or parts that are not there, ShardError (a ValueError) for damaged ones, ImportError
    without pyarrow (Parquet), and what `Folder` raises for classes and masks.
    """

    kind = "webdataset"
    own_classes = True

    def __init__(
        self,
        root: str | Path,
        split: str | None = None,
        transform: Transform | None = None,
        cache: bool = False,
        classes: Sequence[str] | int | None = None,
        palette: Sequence[RGB] | None = None,
        mask_map: Mapping[int, int] | str | None = None,
        shuffle: int = SHUFFLE,
        strict: bool = True,
    ) -> None:
        self.listing, base, notes = open_shards(self.kind, root, split or "all", classes=False)
        self.shuffle = _window(shuffle)
        items = _Items(len(self.listing.keys), self._item)
        lost = [item.image for item in items if item.mask is None]
        if lost and strict:
            raise ShardError(
                f"{len(lost)} samples of {root} have no label image, {lost[0]} first; strict=False leaves them out"
            )
        if lost:
            self.listing = self.listing.only(np.array([item.mask is not None for item in items]))
            items = _Items(len(self.listing.keys), self._item)
        probed = [items[i].mask for i in np.linspace(0, len(items) - 1, min(PROBED, len(items))).astype(int).tolist()]
        table = class_table(base, classes, palette, mask_map, probed)
        super().__init__(table.info(base.resolve().name), items, table.encoding(), transform, cache)
        self.notes, self.missing_masks = notes, lost
        if table.mask_map is None:
            refuse_black_and_white(probed, self.encoding)

    def _item(self, index: int) -> Item:
        picture, mask = (self.listing.stored(index, label) for label in (False, True))
        return Item(picture, mask)  # type: ignore[arg-type] - files within files, where a path may stand


class Parquet(WebDataset):
    """The same in tables: a column of pictures and one of label images, as bytes or {"bytes", "path"}."""

    kind = "parquet"


class WebDatasetClasses(_Shards, ClassificationDataset):
    """Tar shards of pictures with one class each: NAME.cls beside NAME.jpg, a number from 0."""

    kind = "webdataset"

    def __init__(
        self,
        root: str | Path,
        split: str | None = None,
        transform: Transform | None = None,
        cache: bool = False,
        classes: Sequence[str] | int | None = None,
        shuffle: int = SHUFFLE,
    ) -> None:
        self.listing, base, notes = open_shards(self.kind, root, split or "all", classes=True)
        self.shuffle = _window(shuffle)
        self.labels = np.array([self._label_of(index) for index in range(len(self.listing.keys))], np.int64)
        if classes is None and (file := class_file(base)) is not None:
            classes = read_classes(file).classes
        number = (
            int(self.labels.max()) + 1 if classes is None else classes if isinstance(classes, int) else len(classes)
        )
        names = tuple(classes) if isinstance(classes, Sequence) else tuple(f"class {i}" for i in range(number))
        if not 0 <= self.labels.min() <= self.labels.max() < number:
            raise ShardError(
                f"{root} has the classes {self.labels.min()} to {self.labels.max()}, and {number} are named"
            )
        info = DatasetInfo(base.resolve().name, names, default_palette(number), licence="your own")
        super().__init__(info, _Items(len(self.labels), partial(self._picture, split or "all")), transform, cache)
        self.notes = notes

    def _label_of(self, index: int) -> int:
        label = self.listing.stored(index, True)
        if not isinstance(label, int):
            raise ShardError(f"{self.listing.stored(index, False)} has no class beside it (NAME.cls)")
        return label

    def _picture(self, part: str, index: int) -> LabelledPicture:
        picture: Any = self.listing.stored(index, False)
        return LabelledPicture(picture, int(self.labels[index]), part)


class ParquetClasses(WebDatasetClasses):
    """The same in tables: a column of pictures and one of numbers."""

    kind = "parquet"


def _window(shuffle: int) -> int:
    if shuffle < 1:
        raise ValueError(
            f"shuffle is {shuffle}; give how many samples that lie near are shuffled with each other, 1 or more"
        )
    return int(shuffle)
