"""What a comparison remembers on disk, so that it goes on where it was: a folder a candidate, a file a finished phase."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from segmentarium.comparison.candidates import Candidate
from segmentarium.files import write_json
from segmentarium.training.options import changed_options


class ChangedOptionsError(ValueError):
    """The folder holds a comparison that was made with other options."""


class Record:
    """One candidate's folder.  A phase's file is written whole, when the phase is done."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, phase: str) -> dict[str, Any] | None:
        """What a phase left behind; None where it is not done."""
        path = self.folder / f"{phase}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def write(self, phase: str, values: dict[str, Any]) -> None:
        write_json(self.folder / f"{phase}.json", values)

    def claim(self, candidate: Candidate) -> None:
        """Makes the folder this candidate's.  Raises ChangedOptionsError where it was made with other options."""
        identity = json.loads(json.dumps(candidate.identity()))
        earlier = self.read("candidate")
        if earlier is None:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.write("candidate", identity)
            return
        lines = []
        old, new = earlier.get("stages", []), identity.get("stages", [])
        if len(old) != len(new):
            lines.append(f"  {len(old)} training stage(s) -> {len(new)}")
        elif earlier.get("weights") != identity.get("weights"):
            lines.append("  weights -> other weights")
        for before, after in zip(old, new, strict=False):
            lines += [f"  {name}: {was!r} -> {now!r}" for name, (was, now) in changed_options(before, after).items()]
        if lines:
            raise ChangedOptionsError(
                f"{self.folder} holds {candidate.label} compared with other options:\n" + "\n".join(lines) + "\n"
                "give the same as before, another --out, or remove that folder to begin this model anew"
            )


def claim_folder(folder: Path, identity: dict[str, Any]) -> None:
    """Makes `folder` the place of a comparison with these options.

    Raises ChangedOptionsError, listing them, where it holds one with others, and ValueError where it holds something else.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; give a folder for the comparison")
    stored = folder / "options.json"
    identity = json.loads(json.dumps(identity))
    if not stored.is_file():
        if folder.is_dir() and any(folder.iterdir()):
            raise ValueError(f"{folder} holds other files and no comparison; give an empty or a new folder")
        write_json(stored, identity)
        return
    earlier = json.loads(stored.read_text(encoding="utf-8"))
    names = [name for name in {**earlier, **identity} if earlier.get(name) != identity.get(name)]
    if names:
        lines = [f"  {name}: {earlier.get(name)!r} -> {identity.get(name)!r}" for name in names]
        raise ChangedOptionsError(
            f"{folder} holds a comparison with other options:\n" + "\n".join(lines) + "\n"
            "give the same as before to go on with it, or another --out"
        )
