"""The inputs of `segment` and `portrait`: what comes into a folder that is watched, what became of each, and the list of that."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from segmentarium.files import check_targets, has_keys, write_json

NAME = "_inputs.json"
KEYS = ("verb", "inputs")


def add_watch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--watch",
        action="store_true",
        help="of a folder: then wait for what comes into it, until Ctrl-C; what was done before is left out",
    )


def check_watch(options: argparse.Namespace, out: str | Path) -> None:
    """Raises ValueError unless one folder is watched, for a folder of results that does not hold it."""
    if len(options.source) != 1 or not Path(options.source[0]).is_dir() or str(out) == "-" or Path(out).is_file():
        raise ValueError("--watch is for one folder, and a folder of results")
    if Path(out).resolve() in (inbox := Path(options.source[0]).resolve(), *inbox.parents):
        # nothing in the results' folder is looked at, and so nothing of this one would be
        raise ValueError(f"--watch leaves out what lies in {out}, and {options.source[0]} does; give another --out")


def watched(
    options: argparse.Namespace, out: str | Path, listed: Inputs, stop: Callable[[], bool] = lambda: False
) -> Iterator[Any]:
    """What lies in the folder and what comes into it, without what an earlier watch did; the list is written after each."""
    from segmentarium.media.sources import watch

    print(f"watching {options.source[0]}; Ctrl-C ends it", file=sys.stderr)
    for item in watch(Path(options.source[0]), Path(out), stop=stop):
        if item.origin not in listed or options.overwrite:
            yield item
            listed.write()


class Inputs:
    """A JSON file in the results' folder: for each input its files, or why there are none.  Earlier inputs stay in it.

    Raises FileExistsError where another file of that name is there, also another verb's list, unless `overwrite`.
    """

    def __init__(self, folder: str | Path, verb: str, *, overwrite: bool = False) -> None:
        self.path, self.verb = Path(folder) / NAME, verb
        found = json.loads(self.path.read_text(encoding="utf-8")) if has_keys(self.path, KEYS) else {}
        ours = found.get("verb") == verb  # what another verb did is not done by this one
        check_targets([self.path], overwrite=overwrite, ours=ours)
        self._told: dict[str, dict[str, Any]] = {one["source"]: one for one in found["inputs"]} if ours else {}

    def __contains__(self, source: str) -> bool:
        """Whether an input was done: here, or earlier."""
        return "files" in self._told.get(source, {})

    def done(self, source: str, files: Sequence[str | Path]) -> None:
        self._told[source] = {"source": source, "files": [str(file) for file in files]}

    def failed(self, source: str, problem: str) -> None:
        self._told[source] = {"source": source, "problem": problem}

    def write(self) -> None:
        write_json(self.path, {"verb": self.verb, "inputs": list(self._told.values())})
