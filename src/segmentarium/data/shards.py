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
import tarfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from segmentarium.data.base import ClassificationDataset, Item, LabelledPicture, SegmentationDataset, Transform
from segmentarium.data.class_table import class_file, read_classes
from segmentarium.data.folder import class_table, refuse_black_and_white
from segmentarium.data.image_io import IMAGE_SUFFIXES
from segmentarium.data.mask_io import RGB
from segmentarium.data.splits import PARTS, check_split, hash_note, hash_split, wanted_parts
from segmentarium.data.stored import Stored

SPLITS = ("train", "val", "trainval", "test", "all")
SHUFFLE = 4096  # samples that lie near and are shuffled with each other
ROOM = 2**28  # bytes of Parquet that a process keeps at hand
LARGEST = 2**30  # bytes of one picture in a shard
PROBED = 16  # label images that are looked at for values that are no classes

_PART = re.compile(r"(train|val|test)(?:ing|id|idation)?(?![a-z])", re.IGNORECASE)
_LABELS = ("mask", "seg", "segmentation", "label", "labels", "gt", "annotation")
_PICTURES = ("image", "img", "picture", "input")


class ShardError(ValueError):
    """A shard that cannot be read, or holds other things than pictures with labels; the message names it."""


class Place(NamedTuple):
    """Where a sample's picture and label lie: in a tar (offset, bytes, ending), in a table (row group, row, 0)."""

    shard: int
    picture: tuple[int, int, str]
    label: tuple[int, int, str] | None


@dataclass
class Listing:
    """What is in the shards.

    keys    of the samples
    places  of the samples, structured: see `_TAR` and `_TABLE`
    group   of each sample, growing: the samples of one lie together
    stored  (number of a sample, whether the label is meant) -> the file; None: there is no label
    room    samples that may be shuffled with each other without reading more than ROOM at a time
    """

    keys: list[str]
    group: np.ndarray
    stored: Callable[[int, bool], Stored | int | None]
    room: int | None = None


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


# tar -------------------------------------------------------------------------------------------------------------------


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
                archive.members = []  # pyright: ignore[reportAttributeAccessIssue] - they would grow with the shard
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
        if f".{last if dot else first}" not in IMAGE_SUFFIXES and not (dot and last == "npy" and first in _LABELS):
            continue
        if dot and first in _LABELS:
            label = label if classes else ending
        elif not dot or first in _PICTURES:
            pictures.append(ending)
    if not classes and label is None and len(pictures) == 2 and "png" in pictures:
        label = "png"  # NAME.png beside NAME.jpg
        pictures.remove("png")
    return (pictures[0] if len(pictures) == 1 else None), label


def list_tars(shards: Sequence[Path], wanted: Callable[[Path, str], bool], classes: bool) -> Listing:
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
    table = np.concatenate(rows)

    def stored(index: int, label: bool) -> Stored | int | None:
        shard = shards[int(table[index, 0])]
        offset, length, ending = (
            (int(value) for value in table[index, 4:] if label) if label else table[index, 1:4].tolist()
        )
        if offset < 0:
            return None
        member = Member(shard, f"{keys[index]}.{endings[ending]}", offset, length)
        return _class_of(member) if classes and label else member

    return Listing(keys, table[:, 0], stored)


def _class_of(member: Stored) -> int:
    try:
        return int(member.read()[:32].decode("ascii").strip())
    except ValueError:
        raise ShardError(f"{member} is no number of a class") from None


# Parquet ---------------------------------------------------------------------------------------------------------------

_kept: OrderedDict[tuple[str, int, tuple[str, ...]], Any] = OrderedDict()
_keeping = threading.Lock()


def row_group(shard: Path, number: int, columns: tuple[str, ...]) -> Any:
    """A row group's columns, of which a process keeps the last ones at hand, up to ROOM bytes."""
    key = (str(shard), number, columns)
    with _keeping:
        if key in _kept:
            _kept.move_to_end(key)
            return _kept[key]
    table = _parquet().ParquetFile(shard).read_row_group(number, columns=list(columns))
    with _keeping:
        _kept[key] = table
        while len(_kept) > 1 and sum(one.nbytes for one in _kept.values()) > ROOM:
            _kept.popitem(last=False)
    return table


class Cell(Stored):
    """A picture in a table: bytes, or Hugging Face's {"bytes", "path"}."""

    def __init__(
        self, container: Path, inner: str, group: int, row: int, column: str, columns: tuple[str, ...]
    ) -> None:
        super().__init__(container, inner, 0)
        self._where = group, row, column, columns

    def read(self) -> bytes:
        group, row, column, columns = self._where
        value = row_group(self.container, group, columns).column(column)[row].as_py()
        content = value.get("bytes") if isinstance(value, dict) else value
        if not content:
            raise OSError(f"{self} is empty; pictures lie in the table as bytes, not as paths")
        return content


def list_tables(shards: Sequence[Path], wanted: Callable[[Path, str], bool], classes: bool) -> Listing:
    keys: list[str] = []
    rows: list[np.ndarray] = []
    columns: tuple[str, str] | None = None
    groups, weight = 0, 0
    for number, shard in enumerate(shards):
        file = _opened_table(shard)
        columns = columns or _columns(file.schema_arrow, shard, classes)
        name = next((n for n in ("key", "name", "id", "file_name") if n in file.schema_arrow.names), None)
        for group in range(file.num_row_groups):
            head = file.metadata.row_group(group)
            weight += sum(
                head.column(i).total_uncompressed_size
                for i in range(head.num_columns)
                if head.column(i).path_in_schema.split(".")[0] in columns
            )
            named = file.read_row_group(group, columns=[name]).column(0).to_pylist() if name else range(head.num_rows)
            told = [str(one) if name else f"{shard.stem}-{group}-{one}" for one in named]
            chosen = [row for row, key in enumerate(told) if wanted(shard, key)]
            keys += [told[row] for row in chosen]
            rows.append(np.array([(number, group, row, groups) for row in chosen], np.int64).reshape(-1, 4))
            groups += 1
    table = np.concatenate(rows) if rows else np.empty((0, 4), np.int64)
    assert columns is not None
    picture, label_column = columns

    def stored(index: int, label: bool) -> Stored | int | None:
        shard, group, row = shards[int(table[index, 0])], int(table[index, 1]), int(table[index, 2])
        if label and classes:
            value = row_group(shard, group, columns).column(label_column)[row].as_py()
            if not isinstance(value, int):
                raise ShardError(f"{shard}: row {row} of group {group} has the class {value!r}; expected a number")
            return value
        column = label_column if label else picture
        return Cell(shard, f"{keys[index]}.{column}.png", group, row, column, columns)

    return Listing(keys, table[:, 3], stored, max(1, int(ROOM / 2 * len(keys) / max(weight, 1))))


def _parquet() -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise ImportError("tables need pyarrow, which is not installed: pip install 'segmentarium[scale]'") from None
    return pyarrow.parquet


def _opened_table(shard: Path) -> Any:
    parquet = _parquet()
    try:
        return parquet.ParquetFile(shard)
    except (OSError, ValueError) as error:  # its exceptions derive from these
        raise ShardError(f"{shard} cannot be read as Parquet: {error}") from error


def _columns(schema: Any, shard: Path, classes: bool) -> tuple[str, str]:
    """(the column of pictures, that of labels)"""
    import pyarrow.types as types

    def holds(name: str) -> str:
        kind = schema.field(name).type
        inner = kind.field("bytes").type if types.is_struct(kind) and kind.get_field_index("bytes") >= 0 else kind
        if types.is_binary(inner) or types.is_large_binary(inner):
            return "bytes"
        return "numbers" if types.is_integer(kind) else "other"

    pictures = [n for n in (*_PICTURES, "jpg", "jpeg", "png", "bytes") if n in schema.names and holds(n) == "bytes"]
    kind = "numbers" if classes else "bytes"
    names = (*_LABELS, "class", "cls") if classes else _LABELS
    labels = [n for n in names if n in schema.names and holds(n) == kind]
    if not pictures or not labels:
        raise ShardError(
            f"{shard} has the columns {', '.join(schema.names)}; expected pictures as bytes in one of {', '.join(_PICTURES)}, "
            f"and {'classes as numbers' if classes else 'label images as bytes'} in one of {', '.join(names)}"
        )
    return pictures[0], labels[0]


# data sets -------------------------------------------------------------------------------------------------------------

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
            self._leave_out(np.array([item.mask is not None for item in items]))
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

    def _leave_out(self, kept: np.ndarray) -> None:
        whole, places = self.listing, np.flatnonzero(kept).tolist()
        keys = [whole.keys[i] for i in places]
        self.listing = Listing(keys, whole.group[kept], lambda i, label: whole.stored(places[i], label), whole.room)


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
        from segmentarium.data.base import DatasetInfo
        from segmentarium.palette import default_palette

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
