"""Files within files: what readers of pictures and label images take where a path is expected, and how both are opened."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Self

import numpy as np

PICTURE_NAMES = ("image", "img", "picture", "input")  # what members and columns are called
LABEL_NAMES = ("mask", "seg", "segmentation", "label", "labels", "gt", "annotation")


class Stored(os.PathLike[str]):
    """A picture or label image inside of a shard; it is named, compared and printed as if the shard were a folder."""

    def __init__(self, container: Path, inner: str, length: int) -> None:
        self.container, self.inner, self.length = container, PurePosixPath(inner), length

    def read(self) -> bytes:
        """Its bytes.  OSError where the shard is gone or shorter than it was."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def stem(self) -> str:
        return self.inner.stem

    @property
    def suffix(self) -> str:
        return self.inner.suffix

    def resolve(self) -> Stored:
        return self

    def stat(self) -> Any:
        """Of the shard: that it was written anew is what anybody asks for."""
        return self.container.stat()

    def __fspath__(self) -> str:
        return f"{self.container}/{self.inner}"

    __str__ = __repr__ = __fspath__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stored) and os.fspath(self) == os.fspath(other)

    def __hash__(self) -> int:
        return hash(os.fspath(self))


def open_file(source: str | os.PathLike[str]) -> BinaryIO:
    """A file, or one within another, to be read.  Raises OSError."""
    if not isinstance(source, Stored):
        return open(source, "rb")
    stream = BytesIO(source.read())
    stream.name = str(source)  # type: ignore[attr-defined] - what messages call it
    return stream


def length_of(source: Path | Stored) -> int:
    """In bytes, of the picture itself.  Raises OSError."""
    return source.length if isinstance(source, Stored) else source.stat().st_size


class ShardError(ValueError):
    """A shard that cannot be read, or holds other things than pictures with labels; the message names it."""


class Listing:
    """What is in the shards, a row a sample.

    keys     of the samples
    table    int64 (N, …): of each sample the number of its shard first, and where in it picture and label lie
    group    of each sample, growing: the samples of one lie together
    classes  whether a label is the number of a class, and no image
    room     samples that may be shuffled with each other without reading too much at a time; None: any number
    """

    room: int | None = None

    def __init__(self, keys: list[str], shards: Sequence[Path], table: np.ndarray, classes: bool) -> None:
        self.keys, self.shards, self.table, self.classes = keys, shards, table, classes

    @property
    def group(self) -> np.ndarray:
        return self.table[:, 0]

    def stored(self, index: int, label: bool) -> Stored | int | None:
        """The picture of a sample, or its label; None: it has none."""
        raise NotImplementedError

    def only(self, kept: np.ndarray) -> Self:
        """The same of these samples (N,) bool alone."""
        part = copy.copy(self)
        part.keys = [key for key, keep in zip(self.keys, kept.tolist(), strict=True) if keep]
        part.table = self.table[kept]
        return part
