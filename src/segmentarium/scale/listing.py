"""Which pictures there are: of folders, patterns, stores, and Parquet tables of paths or of the pictures themselves.

A picture is (source, name, row): where it is, what its result is called, and the row of the Parquet file that holds its bytes;
None where the source is the picture's own file.  Nothing of a picture is read.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from segmentarium.data.finding import pictures_below
from segmentarium.data.image_io import IMAGE_SUFFIXES
from segmentarium.files import shown
from segmentarium.scale.stores import Store, file_system, local_path, open_bytes, store_of

Picture = tuple[str, str, int | None]

TABLES = (".parquet", ".pq")
# the column that holds the pictures where nobody says: the first of these that is there
COLUMNS = (
    "image",
    "bytes",
    "picture",
    "content",
    "jpg",
    "jpeg",
    "png",
    "path",
    "file",
    "file_name",
    "filename",
    "uri",
    "url",
)
LONGEST = 200  # bytes of a folder's or file's name
ROWS = 64  # of a table, in memory at a time


def find_pictures(
    sources: Sequence[str], column: str | None = None, leave_out: Store | None = None
) -> Iterator[Picture]:
    """The pictures of paths, folders, globs, addresses and Parquet tables, in an order that is always the same.

    column     of tables: where paths or bytes are (default: the first of COLUMNS that is there)
    leave_out  the place of the results, which may lie in a source

    Raises FileNotFoundError and ValueError, as `media.sources.expand` does, for a source in which there is nothing.
    """
    for source in sources:
        found = False
        for place, name in _files(source):
            if leave_out is not None and leave_out.holds(place):
                continue
            is_table = place.lower().endswith(TABLES)
            for picture in _rows(place, name, column) if is_table else [(place, name, None)]:
                found = True
                yield picture
        if not found:
            raise ValueError(f"{shown(source)} holds no pictures, and no Parquet table with any")


def _files(source: str) -> Iterator[tuple[str, str]]:
    """(address, name) of the files of a source."""
    if store_of(source) is not None:
        yield from _objects(source)
        return
    path = local_path(source)
    if path.is_dir():
        yield from ((str(file), _name(file.relative_to(path).as_posix())) for file in pictures_below(path, TABLES))
    elif path.is_file():
        yield str(path), _name(path.name)
    elif glob.has_magic(str(path)):
        fixed = _fixed(str(path))
        files = sorted(file for file in glob.glob(str(path), recursive=True) if Path(file).is_file())
        yield from ((file, _name(file[len(fixed) :])) for file in files)
    else:
        raise FileNotFoundError(
            f"{shown(source)} does not exist: it is no file, no folder, and no pattern that fits files"
        )


def _objects(source: str) -> Iterator[tuple[str, str]]:
    system, path = file_system(source)
    start = source[: source.index("://") + 3]
    if glob.has_magic(path):
        fixed, found = _fixed(path), system.glob(path)
    elif system.isfile(path):
        fixed, found = path.rpartition("/")[0] + "/", [path]
    else:
        fixed, found = path.rstrip("/") + "/", system.find(path)
    for place in sorted(map(str, found)):
        if (
            not glob.has_magic(path)
            and PurePosixPath(place).suffix.lower() not in (*IMAGE_SUFFIXES, *TABLES)
            and len(found) > 1
        ):
            continue  # an object's beginning is a request of its own
        yield start + place.lstrip("/"), _name(place.removeprefix(fixed))


def _fixed(pattern: str) -> str:
    """The folders of a pattern that come before what varies."""
    before = pattern[: next(i for i, letter in enumerate(pattern) if letter in "*?[")]
    return before[: before.rfind("/") + 1]


def _name(path: str) -> str:
    """The name of a result: a path without its ending that leads nowhere else, and that every file system takes."""
    parts = [part for part in PurePosixPath(path).parts if part not in ("/", ".", "..")]
    if parts:
        parts[-1] = PurePosixPath(parts[-1]).stem
    # a folder q.png/ would stand where the mask of a picture q beside it goes
    folders = [f"{part}_" if part.lower().endswith(".png") else part for part in parts[:-1]]
    return "/".join(_word(part) for part in folders + parts[-1:]) or "picture"


def _word(part: str) -> str:
    plain = "".join("_" if letter < " " else letter for letter in part)
    return os.fsdecode(os.fsencode(plain)[:LONGEST])


def _rows(place: str, name: str, column: str | None) -> Iterator[Picture]:
    parquet = parquet_reader(place)
    with open_bytes(place) as file:
        try:
            table = parquet.ParquetFile(file)
        except ValueError as error:  # pyarrow's, which names no file
            raise ValueError(
                f"{shown(place)} cannot be read as a Parquet table; leave it out, or write it anew: {error}"
            ) from None
        chosen, kind = picture_column(table.schema_arrow, column, place)
        if kind == "bytes":
            yield from ((place, f"{name}-{row:06d}", row) for row in range(table.metadata.num_rows))
            return
        texts = (text for batch in table.iter_batches(4096, columns=[chosen]) for text in batch.column(0).to_pylist())
        for row, text in enumerate(texts):
            if not text:  # told by its number when it is read, as a row without bytes is
                yield place, f"{name}-{row:06d}", row
                continue
            path = text.partition("://")[2] if store_of(text) else str(local_path(text))
            yield beside(place, text), _name(path), None


def beside(place: str, text: str) -> str:
    """The address of a picture that a table at `place` names by `text`: as it is, or in the table's folder.  ValueError as
    `store_of`'s."""
    folder = place.rpartition("/")[0]
    whole = store_of(text) or local_path(text).is_absolute() or not folder
    return text if whole else f"{folder}/{text}"


def parquet_reader(place: str) -> Any:
    """pyarrow.parquet.  ImportError where it is not installed."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(
            f"{shown(place)}: Parquet needs pyarrow, which is not installed: pip install 'segmentarium[scale]'"
        ) from error
    return pyarrow.parquet


def picture_column(schema: Any, wanted: str | None, place: str) -> tuple[str, str]:
    """(column, "bytes" or "paths") of a table's pictures.  ValueError where none can be."""
    import pyarrow.types as types

    kinds = {}
    for field in schema:
        of = field.type.value_type if types.is_dictionary(field.type) else field.type  # pandas' categories
        if types.is_binary(of) or types.is_large_binary(of):
            kinds[field.name] = "bytes"
        elif types.is_string(of) or types.is_large_string(of):
            kinds[field.name] = "paths"
        elif types.is_struct(of) and of.get_field_index("bytes") >= 0:  # as Hugging Face keeps pictures
            kinds[field.name] = "bytes"
    if not kinds:
        raise ValueError(f"{shown(place)} has no column of paths or bytes; it has {', '.join(schema.names) or 'none'}")
    if wanted is not None and wanted not in kinds:
        raise ValueError(f"{shown(place)} has no column {wanted!r} of paths or bytes; it has {', '.join(kinds)}")
    first = wanted or next((name for known in COLUMNS for name in kinds if name.lower() == known), None)
    if first is None:
        raise ValueError(
            f"{shown(place)}: which column has the pictures? Give column (--column) as one of {', '.join(kinds)}"
        )
    return first, kinds[first]


def row_bytes(place: str, column: str | None, rows: Sequence[int]) -> Iterator[tuple[int, bytes | str | None]]:
    """(row, its picture's bytes) of some rows of a table, which are read some at a time.

    Where Hugging Face keeps no bytes but a path, the path, for `beside`; None or nothing in it: the row has no picture.
    """
    parquet = parquet_reader(place)
    wanted, last = set(rows), max(rows)
    with open_bytes(place) as file:
        table = parquet.ParquetFile(file)
        chosen, _ = picture_column(table.schema_arrow, column, place)
        start = 0
        for group in range(table.num_row_groups):
            ends = start + table.metadata.row_group(group).num_rows
            if not any(start <= row < ends for row in wanted):
                start = ends
                continue
            for batch in table.iter_batches(ROWS, row_groups=[group], columns=[chosen]):
                values = batch.column(0)
                for row in range(start, start + len(batch)):
                    if row in wanted:
                        value = values[row - start].as_py()
                        yield row, (value["bytes"] or value.get("path")) if isinstance(value, dict) else value
                start += len(batch)
                if start > last:
                    return
            start = ends
