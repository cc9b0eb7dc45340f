"""Places of files: folders of this machine, and object stores through fsspec (s3://, gs://, az://, memory://)."""

from __future__ import annotations

import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from segmentarium.files import atomic_write, shown

# What an address may be of, also one that stands in a table.  No web, no archives, no chains of them: a table from elsewhere
# must not make this machine ask whom it names.
STORES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory")
_PACKAGES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
}
_PROTOCOL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)(?:://|::)")


def store_of(address: str) -> str | None:
    """The store of an address, "s3" of "s3://bucket/photo.jpg"; None of a path of this machine.  ValueError for any other."""
    if address.startswith("file://"):
        return None
    found = _PROTOCOL.match(address)
    if found is None:
        return None
    if found[1] not in STORES or "::" in address:
        raise ValueError(
            f"{shown(address[:200])} is at no place that is read here; give a path of this machine, or an address of "
            f"{', '.join(STORES)}"
        )
    return found[1]


def local_path(address: str) -> Path:
    """The path of an address of this machine."""
    return Path(address.removeprefix("file://"))


def file_system(address: str) -> tuple[Any, str]:
    """(fsspec's file system, the path in it) of a store's address.  ImportError where its package is not installed."""
    import fsspec

    store = store_of(address)
    try:  # what another worker wrote a moment ago is seen only without a memory of listings
        return fsspec.core.url_to_fs(address, use_listings_cache=False)
    except ImportError as error:
        package = _PACKAGES.get(store or "", "fsspec")
        raise ImportError(
            f"{store}:// needs the package {package}, which is not installed: pip install {package}"
        ) from error


def read_bytes(address: str) -> bytes:
    """The bytes of a file or object.  OSError where it cannot be had."""
    if store_of(address) is None:
        return local_path(address).read_bytes()
    system, path = file_system(address)
    return system.cat_file(path)


def open_bytes(address: str) -> Any:
    """A file or object, open for reading at any place."""
    if store_of(address) is None:
        return local_path(address).open("rb")
    system, path = file_system(address)
    return system.open(path, "rb")


@lru_cache(4096)  # a listing asks it for every file
def _folder(path: str) -> Path:
    return Path(path).resolve()


class Store:
    """A folder of this machine or of a store, whose files appear whole or not at all.

    Object stores show an object when all of it has come; on this machine `files.atomic_write` sees to it.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = os.fspath(root)
        self.kind = store_of(self.root)
        if self.kind is None:
            self.root = os.path.abspath(local_path(self.root))
        else:
            self.root = self.root.rstrip("/")
            self._system, self._base = file_system(self.root)

    def write(self, name: str, content: bytes) -> None:
        """Makes or replaces a file; folders in its name are made."""
        if self.kind is None:
            with atomic_write(Path(self.root, name)) as temporary:
                temporary.write_bytes(content)
        else:
            self._system.pipe_file(f"{self._base}/{name}", content)

    def read(self, name: str) -> bytes | None:
        """The content of a file; None where there is none."""
        try:
            if self.kind is None:
                return Path(self.root, name).read_bytes()
            return self._system.cat_file(f"{self._base}/{name}")
        except (FileNotFoundError, NotADirectoryError):
            return None

    def exists(self, name: str) -> bool:
        if self.kind is None:
            return Path(self.root, name).is_file()
        return bool(self._system.exists(f"{self._base}/{name}"))

    def remove(self, name: str) -> None:
        """Removes a file; nothing happens where there is none."""
        if self.kind is None:
            Path(self.root, name).unlink(missing_ok=True)
        elif self._system.exists(f"{self._base}/{name}"):
            self._system.rm_file(f"{self._base}/{name}")

    def names(self, folder: str) -> list[str]:
        """The names of what lies in a folder, sorted; none where there is no such folder.  Files in the making are left out."""
        try:
            if self.kind is None:
                found = os.listdir(Path(self.root, folder))
            else:
                found = [
                    str(path).rstrip("/").rpartition("/")[2]
                    for path in self._system.ls(f"{self._base}/{folder}", detail=False)
                ]
        except FileNotFoundError:
            return []
        return sorted(name for name in found if not name.startswith("."))

    def holds(self, address: str) -> bool:
        """Whether a file lies in this folder, by whatever links its address leads there."""
        if store_of(address) != self.kind:
            return False
        if self.kind is not None:
            return address.startswith(self.root + "/")
        place, root = _folder(os.path.dirname(local_path(address))), _folder(self.root)
        return place == root or root in place.parents
