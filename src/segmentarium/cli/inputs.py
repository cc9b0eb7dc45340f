"""What became of each input: the line that verbs print of a problem, and the list that `segment` and `portrait` leave."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segmentarium.files import check_targets, has_keys, shown, write_json

NAME = "_inputs.json"
KEYS = ("verb", "inputs")


def problem(origin: str, error: Exception) -> str:
    """What is told of an input that could not be done: a line that names it, printable."""
    message = str(error) or type(error).__name__
    return shown(message if origin in message or shown(origin) in message else f"{origin}: {message}")


class Inputs:
    """A JSON file in the results' folder: for each input its files, or why there are none.  Earlier inputs stay in it.

    Raises FileExistsError where another file of that name is there, unless `overwrite`.
    """

    def __init__(self, folder: str | Path, verb: str, *, overwrite: bool = False) -> None:
        self.path, self.verb = Path(folder) / NAME, verb
        check_targets([self.path], overwrite=overwrite, ours=has_keys(self.path, KEYS))
        self._told: dict[str, dict[str, Any]] = {}
        if has_keys(self.path, KEYS):
            self._told = {one["source"]: one for one in json.loads(self.path.read_text(encoding="utf-8"))["inputs"]}

    def __contains__(self, source: str) -> bool:
        """Whether an input was done: here, or earlier."""
        return "files" in self._told.get(source, {})

    def done(self, source: str, files: Sequence[str | Path]) -> None:
        self._told[source] = {"source": source, "files": [str(file) for file in files]}

    def failed(self, source: str, problem: str) -> None:
        self._told[source] = {"source": source, "problem": problem}

    def write(self) -> None:
        write_json(self.path, {"verb": self.verb, "inputs": list(self._told.values())})
