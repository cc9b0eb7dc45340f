"""Files that are there whole or not at all, what must not be written over, and the folder of those that only save time."""

from __future__ import annotations

import atexit
import contextlib
import errno
import io
import json
import os
import re
import secrets
import shutil
import stat
import struct
import sys
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

try:
    import fcntl
except ImportError:  # Windows, which deletes no file that is open
    fcntl = None

_PART = re.compile(r"\..+\.[0-9a-f]{12}\.part")
_NAME_OF_OPEN = "/proc/self/fd/{}"
_YOUNG = 2.0  # seconds in which a part may have been made and not been locked yet
_swept: set[Path] = set()  # folders that this process has tidied


def cache_folder() -> Path:
    """Where exported networks, measurements and counts are kept: $SEGMENTARIUM_CACHE, or the system's cache folder."""
    if given := os.environ.get("SEGMENTARIUM_CACHE"):
        return Path(given)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "segmentarium"


def writable_cache() -> Path:
    """`cache_folder()` where it can be written to, else a private temporary folder for as long as the process lasts."""
    try:
        _check_place(cache_folder() / "any")
    except OSError:
        return _temporary_cache()
    return cache_folder()


@cache
def _temporary_cache() -> Path:
    folder = tempfile.mkdtemp(prefix="segmentarium-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@contextlib.contextmanager
def atomic_write(path: Path, *, plain: bool = False) -> Iterator[Path]:
    """Yields a temporary path beside `path`; renames it over `path` only when all was written, else removes it.

    plain  whoever writes fills the path that it is given, and neither replaces it nor puts files beside it: where the system can
           (Linux), the file then has no name until it is whole, and a killed process leaves nothing of it behind

    A full disk or a kill therefore never leaves half a file under the final name.  Of a link it is the link that is replaced,
    not what it points to; who may read the file is said by the umask.  What a process that was killed left behind in the
    folder is removed by the next one that writes there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path.parent)
    temporary = path.parent / _part_of(path.name)
    if plain and (handle := _nameless(path.parent)) is not None:
        try:
            with _locked(handle):
                yield (whole := Path(_NAME_OF_OPEN.format(handle)))
                os.fsync(handle)
                try:  # under another name: no call gives it one that is taken
                    os.link(whole, temporary, src_dir_fd=handle)
                except OSError:  # a system that forbids it
                    with whole.open("rb") as given, temporary.open("wb") as copy:
                        shutil.copyfileobj(given, copy)
                        os.fsync(copy.fileno())
                temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        return
    handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    mode = stat.S_IMODE(os.fstat(handle).st_mode)
    try:
        with _locked(handle):
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.chmod(mode)  # some writers put a file of their own there
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """The same of a folder of files: they appear in `path` together, or none of them does.

    Files that are there already stay, unless one of the new ones has their name.
    """
    with part_folder(path) as temporary:
        yield temporary
        if not os.path.lexists(path):
            temporary.rename(path)
            return
        for file in sorted(temporary.iterdir()):
            file.replace(path / file.name)


@contextlib.contextmanager
def part_folder(path: Path) -> Iterator[Path]:
    """A folder beside `path` for what is not whole yet.  It is removed with what is left in it, also after a kill."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path.parent)
    temporary = path.parent / _part_of(path.name)
    temporary.mkdir()
    try:
        with _locked(os.open(temporary, os.O_RDONLY)) if fcntl is not None else contextlib.nullcontext():
            yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _nameless(folder: Path) -> int | None:
    """A file of that folder's disk without a name, open; None where the system or the disk has none."""
    if not hasattr(os, "O_TMPFILE") or not os.path.isdir(os.path.dirname(_NAME_OF_OPEN)):
        return None
    try:
        return os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o666)
    except OSError:
        return None


def _part_of(name: str) -> str:
    kept = os.fsdecode(os.fsencode(name)[:200])  # file systems take 255 bytes
    return f".{kept}.{secrets.token_hex(6)}.part"


@contextlib.contextmanager
def _locked(handle: int) -> Iterator[None]:
    """Holds what was opened for as long as this process lives, however it ends: who gets it then knows that nobody needs it."""
    if fcntl is None:  # Windows replaces no file that is open
        os.close(handle)
        yield
        return
    try:
        _lock(handle)
        yield
    finally:
        os.close(handle)


def _lock(handle: int) -> bool:
    """Whether nobody else holds it.

    Of files a byte far behind their end is locked, and by the opened file, not the process: HDF5 locks its files whole, SQLite by
    other bytes, and both must be able to.
    """
    assert fcntl is not None
    try:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            wanted = struct.pack("hhqqi0q", fcntl.F_WRLCK, os.SEEK_SET, 2**62, 1, 0)
            fcntl.fcntl(handle, fcntl.F_OFD_SETLK, wanted)  # type: ignore[attr-defined] - Linux
    except (OSError, AttributeError):  # held, or a system without such locks, on which nothing is swept
        return False
    return True


def _sweep(folder: Path) -> None:
    """Removes what dead processes left of files and folders that they did not complete."""
    place = folder.absolute()
    if fcntl is None or place in _swept:
        return
    _swept.add(place)
    with contextlib.suppress(OSError):
        with os.scandir(place) as entries:
            found = [entry for entry in entries if _PART.fullmatch(entry.name) and not entry.is_symlink()]
        if not found:
            return
        with tempfile.TemporaryFile(dir=place) as clock:  # a file server's clock may be another than ours
            now = os.fstat(clock.fileno()).st_mtime
        for entry in found:
            with contextlib.suppress(OSError):
                if entry.stat().st_mtime > now - _YOUNG:
                    continue
                handle = os.open(entry.path, (os.O_RDONLY if entry.is_dir() else os.O_RDWR) | os.O_NOFOLLOW)
                try:
                    if _lock(handle):
                        shutil.rmtree(entry.path) if entry.is_dir() else os.unlink(entry.path)
                finally:
                    os.close(handle)


def write_text(path: Path, text: str) -> None:
    """UTF-8, whole or not at all.  Bytes of file names that are no UTF-8 become escapes: \\udcff."""
    with atomic_write(path, plain=True) as temporary:
        temporary.write_bytes(text.encode("utf-8", "backslashreplace"))


def free_name(name: str, taken: set[str]) -> str:
    """`name`, or NAME-2, -3, …: the first that is not taken, also where a file system does not tell upper from lower case.  It is
    taken from now on."""
    own, number = name, 1
    while own.lower() in taken:
        number += 1
        own = f"{name}-{number}"
    taken.add(own.lower())
    return own


def write_png(path: Path, picture: Image.Image, **settings: Any) -> None:
    """Whole or not at all; settings are of Pillow's PNG."""
    with atomic_write(path, plain=True) as temporary:
        picture.save(temporary, format="PNG", **settings)


def png_bytes(picture: Image.Image, compress_level: int = 3) -> bytes:
    """A picture as the content of a PNG file."""
    file = io.BytesIO()
    picture.save(file, format="PNG", compress_level=compress_level)
    return file.getvalue()


def write_json(path: Path, values: Mapping[str, Any], *, indent: int | None = 1) -> None:
    """Whole or not at all."""
    write_text(path, json.dumps(values, indent=indent, ensure_ascii=False) + "\n")


def shown(name: str | os.PathLike[str]) -> str:
    """A file's name as it may stand in a line for a terminal: what cannot be printed, or would steer it, is escaped."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in os.fspath(name)
    )


def check_targets(
    targets: Iterable[Path], inputs: Iterable[Path | None] = (), *, overwrite: bool = False, ours: bool = False
) -> None:
    """Raises, before any work is done, for files that could not be written: FileExistsError where one is there already,
    NotADirectoryError where a file is in a folder's place, IsADirectoryError the other way round, PermissionError where
    nothing may be written.

    inputs     what the results are made of; a target may be one of them by a link, or by a name in other letters
    overwrite  what is there is not refused
    ours       what is there is of an earlier run of the same verb (see `has_keys`): refused is then an input alone
    """
    targets = list(targets)
    for folder, target in {target.parent: target for target in targets}.items():
        _check_place(folder / target.name)
    for target in targets:
        if target.is_dir():
            raise IsADirectoryError(f"{target} is a folder; a file is to be written there: give another name")
    if overwrite:
        return
    sources = [path for path in inputs if path is not None and path.exists()]
    for target in targets:
        if not os.path.lexists(target):
            continue
        way_out = "give another place (--out), or --overwrite (in Python overwrite=True) to replace it"
        if any(target.exists() and target.samefile(source) for source in sources):
            raise FileExistsError(f"{target} is the input itself; {way_out}")
        if not ours:
            raise FileExistsError(f"{target} is there already; {way_out}")


def _check_place(target: Path) -> None:
    """Raises OSError where no file could be made at `target`; a folder that is not there yet can be made."""
    folder = target.parent
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise NotADirectoryError(
            errno.ENOTDIR, f"is no folder, so that nothing can be written to {target}", str(folder)
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "may not be written to; give another place", str(folder))


def has_keys(path: Path, keys: Collection[str]) -> bool:
    """Whether a file is a JSON object with these keys: how a verb knows the report of its own earlier run."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.keys() >= set(keys)
