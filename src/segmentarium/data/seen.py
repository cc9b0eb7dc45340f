"""Which pictures a network was trained on, in a few kilobytes of its file's header, so that nobody is scored on them unawares.

A picture is known by its file's name and length, wherever its folder lies.  Of many pictures the thousand with the smallest
hashes are kept: of another set those below the greatest of them tell what share was seen (a bottom-k sketch, E. Cohen 1997).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segmentarium.data.stored import Stored, length_of

KEPT = 1024  # hashes
DIGITS = 12  # of a hash, hexadecimal


def seen(dataset: Any, before: Any = None) -> dict[str, Any] | None:
    """{"pictures": how many, "hashes": the smallest of theirs} of a data set; None for one that is in no files.

    before   the same of what the weights that training began from had seen, which counts, too
    """
    own = _hashes(dataset)
    if not own:
        return None
    earlier = _read(before)
    number = len(own | earlier[1]) if max(earlier[0], len(own)) <= KEPT else max(earlier[0], len(own))
    return {"pictures": number, "hashes": "".join(sorted(own | earlier[1])[:KEPT])}


def share_seen(header: Mapping[str, Any], dataset: Any) -> float:
    """The share, 0..1, of a data set's pictures that weights with such a header were trained on: an estimate."""
    number, kept = _read(header.get("seen"))
    own = _hashes(dataset) if kept else set()
    if number > KEPT and kept:  # larger hashes were not kept
        own = {one for one in own if one <= max(kept)}
    return len(own & kept) / len(own) if own else 0.0


def _read(stored: Any) -> tuple[int, set[str]]:
    """Of a header, which anybody may have written."""
    if not isinstance(stored, Mapping) or not isinstance(stored.get("hashes"), str):
        return 0, set()
    text, number = stored["hashes"][: KEPT * DIGITS], stored.get("pictures")
    return number if isinstance(number, int) else 0, {text[i : i + DIGITS] for i in range(0, len(text), DIGITS)}


def _hashes(dataset: Any) -> set[str]:
    items = getattr(getattr(dataset, "dataset", dataset), "items", ())
    return {
        _hash(image)
        for item in items
        if isinstance(image := getattr(item, "image", None), Stored) or (isinstance(image, Path) and image.is_file())
    }


def _hash(path: Path | Stored) -> str:
    content = f"{path.stem}\0{length_of(path)}".encode()
    return hashlib.blake2b(content, digest_size=DIGITS // 2).hexdigest()
