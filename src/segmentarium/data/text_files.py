"""Text, lists, JSON and YAML as people and programs write them: read whole, bounded, and named in every error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

LARGEST_YAML, MOST_VALUES = 2**20, 100_000


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


def read_json(path: Path, kind: type[ValueError] = ValueError) -> Any:
    """What a file of JSON holds.  An error of this kind, which names the file, for what is none, or lies too deep in itself."""
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        reason = "its brackets lie too deep in each other" if isinstance(error, RecursionError) else str(error)
        raise kind(f"{path} is no JSON: {reason}") from None


def read_yaml(path: Path) -> Any:
    """What a small file of YAML holds, as plain values.  ValueError that names the file, ImportError without PyYAML.

    Names of values (anchors) may be used, but not to write down more than a large file could hold: each may name several
    times what itself names several.
    """
    try:
        import yaml
    except ImportError as error:
        raise ImportError(f"reading {path} needs PyYAML: pip install pyyaml") from error
    if (size := path.stat().st_size) > LARGEST_YAML:
        raise ValueError(f"{path} has {size:,} bytes; a list of classes in YAML has {LARGEST_YAML:,} at the most")
    try:
        content = yaml.load(read_text(path), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        if _values(content, {}) > MOST_VALUES:
            raise ValueError(f"{path} names its values again and again: written out they are more than {MOST_VALUES:,}")
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    except RecursionError:
        raise ValueError(f"{path} is no list: its values lie too deep in each other, or in themselves") from None
    return content


def _values(value: Any, known: dict[int, int]) -> int:
    """How many values there would be without names.  RecursionError for what holds itself."""
    if not isinstance(value, list | dict):
        return 1
    if id(value) not in known:
        parts = value if isinstance(value, list) else [*value, *value.values()]
        known[id(value)] = 1 + sum(_values(part, known) for part in parts)
    return known[id(value)]


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
