"""Shards of Parquet: tables with a column of pictures and one of labels, of which row groups are read whole."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segmentarium.data.stored import LABEL_NAMES, PICTURE_NAMES, Listing, ShardError, Stored

ROOM = 2**28  # bytes that a process keeps at hand

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


def list_tables(shards: Sequence[Path], wanted: Callable[[Path, str], bool], classes: bool) -> Tables:
    """The wanted samples (of a shard, of a key) of tables.  Raises ShardError, and ImportError without pyarrow."""
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
    assert columns is not None
    found = Tables(keys, shards, np.concatenate(rows), classes, columns)
    found.room = max(1, int(ROOM / 2 * len(keys) / max(weight, 1)))
    return found


class Tables(Listing):
    """Rows of shard, row group in it, row in that, and number of the group over all shards."""

    def __init__(
        self, keys: list[str], shards: Sequence[Path], table: np.ndarray, classes: bool, columns: tuple[str, str]
    ) -> None:
        super().__init__(keys, shards, table, classes)
        self.columns = columns

    @property
    def group(self) -> np.ndarray:
        return self.table[:, 3]

    def stored(self, index: int, label: bool) -> Stored | int | None:
        number, group, row, _ = self.table[index].tolist()
        shard, column = self.shards[number], self.columns[label]
        if not (label and self.classes):
            return Cell(shard, f"{self.keys[index]}.{column}.png", group, row, column, self.columns)
        # without the pictures: of all samples classes are read at the start
        value = row_group(shard, group, (column,)).column(column)[row].as_py()
        if not isinstance(value, int):
            raise ShardError(f"{shard}: row {row} of group {group} has the class {value!r}; expected a number")
        return value


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

    pictures = [n for n in (*PICTURE_NAMES, "jpg", "jpeg", "png", "bytes") if n in schema.names and holds(n) == "bytes"]
    kind = "numbers" if classes else "bytes"
    names = (*LABEL_NAMES, "class", "cls") if classes else LABEL_NAMES
    labels = [n for n in names if n in schema.names and holds(n) == kind]
    if not pictures or not labels:
        raise ShardError(
            f"{shard} has the columns {', '.join(schema.names)}; expected pictures as bytes in {', '.join(PICTURE_NAMES)}, "
            f"and {'classes as numbers' if classes else 'label images as bytes'} in {', '.join(names)}"
        )
    return pictures[0], labels[0]
