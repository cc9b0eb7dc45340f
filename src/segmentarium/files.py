"""Files that are there whole or not at all, what must not be written over, and the folder of those that only save time."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any


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


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; renames it over `path` only when all was written, else removes it.

    A full disk or a kill therefore never leaves half a file under the final name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def check_targets(
    targets: Iterable[Path], inputs: Iterable[Path | None] = (), *, overwrite: bool = False, ours: bool = False
) -> None:
    """Raises FileExistsError, before any work is done, where a file to be written is there already.

    inputs     what the results are made of; a target may be one of them by a link, or by a name in other letters
    overwrite  nothing is refused
    ours       what is there is of an earlier run of the same verb (see `has_keys`): refused is then an input alone
    """
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


def has_keys(path: Path, keys: Collection[str]) -> bool:
    """Whether a file is a JSON object with these keys: how a verb knows the report of its own earlier run."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.keys() >= set(keys)
