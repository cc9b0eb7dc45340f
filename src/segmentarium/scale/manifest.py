"""What a job is and what of it is done: files in `_batch/` of the results' folder, each whole or not there.

    job.json                   model, kind, what else changes a result: another one is refused
    pictures-0001.jsonl.gz     a line a part: its number and its pictures; what came later stands in -0002, …
    begun/000007.json          a part somebody is at, or was when the process ended
    done/000007.256.3.json     a part whose results are there: 256 pictures done, 3 that could not be

A part is done when its last file is there, so that a process may end at any time.  Names tell the counts: a million pictures are
counted without opening a file.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from segmentarium.files import free_name
from segmentarium.scale.listing import Picture
from segmentarium.scale.stores import Store

FOLDER = "_batch"
_JOB = f"{FOLDER}/job.json"
DEATHS = 2  # of processes at one picture, after which it is passed over


@dataclass(frozen=True)
class Part:
    """Some pictures that are done by one worker, and recorded together.

    before   how many of them an earlier run did and did not, whose record is replaced
    """

    number: int
    pictures: tuple[Picture, ...]
    before: tuple[int, int] | None = None

    def to_json(self) -> str:
        return json.dumps({"part": self.number, "pictures": self.pictures, "before": self.before})

    @classmethod
    def from_json(cls, text: str) -> Part:
        told = json.loads(text)
        pictures = tuple((source, name, row) for source, name, row in told["pictures"])
        return cls(told["part"], pictures, None if told["before"] is None else (told["before"][0], told["before"][1]))


@dataclass
class Attempt:
    """Of a part: how often it was begun; index of a picture -> how often a process ended while it was at that one alone."""

    times: int = 1
    deaths: dict[int, int] = field(default_factory=dict)


class Manifest:
    """The state of the job whose results go into `store`."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def check(self, told: dict[str, Any]) -> None:
        """ValueError where the folder is of another job, FileExistsError where it holds files that are of none."""
        content = self.store.read(_JOB)
        if content is not None:
            before = json.loads(content)
            other = [
                f"{key}: {before.get(key)!r} there, {told[key]!r} asked" for key in told if before.get(key) != told[key]
            ]
            if other:
                raise ValueError(
                    f"{self.store.root} holds another job ({'; '.join(other)}); give another folder (out, --out)"
                )
            return
        if self.store.names(""):
            raise FileExistsError(f"{self.store.root} holds files that are of no batch; give a new folder (out, --out)")

    def start(self, told: dict[str, Any]) -> None:
        """Begins the job, or goes on with it."""
        if not self.store.exists(_JOB):
            self.store.write(_JOB, json.dumps(told, indent=1).encode())

    def parts(self) -> list[Part]:
        """Every part that was listed so far."""
        found = []
        for name in self.store.names(FOLDER):
            if name.startswith("pictures-"):
                content = gzip.decompress(self.store.read(f"{FOLDER}/{name}") or b"").decode()
                found += [Part.from_json(line) for line in content.splitlines()]
        return found

    def add(self, known: Sequence[Part], pictures: Iterable[Picture], size: int) -> list[Part]:
        """New parts, of `size` pictures each, of what `known` ones do not hold; they are listed from now on.

        Their names become unique, also where a file system does not tell upper from lower case.
        """
        listed = {(source, row) for part in known for source, _, row in part.pictures}
        taken = {name.lower() for part in known for _, name, _ in part.pictures}
        new: list[Picture] = []
        for source, name, row in pictures:
            if (source, row) in listed:
                continue
            listed.add((source, row))
            new.append((source, free_name(name, taken), row))
        first = max((part.number for part in known), default=-1) + 1
        parts = [Part(first + i, tuple(new[start : start + size])) for i, start in enumerate(range(0, len(new), size))]
        if parts:
            lists = sum(name.startswith("pictures-") for name in self.store.names(FOLDER))
            content = "".join(part.to_json() + "\n" for part in parts).encode()
            self.store.write(f"{FOLDER}/pictures-{lists + 1:04d}.jsonl.gz", gzip.compress(content, 6, mtime=0))
        return parts

    def done(self) -> dict[int, tuple[int, int]]:
        """Number of each part that is done -> (pictures done, pictures that could not be)."""
        found: dict[int, tuple[int, int]] = {}
        for name in self.store.names(f"{FOLDER}/done"):
            number, good, bad = (int(text) for text in name.split(".")[:3])
            if number not in found or bad < found[number][1]:
                found[number] = (good, bad)
        return found

    def problems(self) -> list[dict[str, str]]:
        """{"source", "name", "problem"} of every picture that could not be done, by part and place."""
        wanted = {number: counts for number, counts in sorted(self.done().items()) if counts[1]}
        return [one for number, counts in wanted.items() for one in self._record(number, *counts)["problems"]]

    def _record(self, number: int, good: int, bad: int) -> dict[str, Any]:
        return json.loads(self.store.read(_done(number, good, bad)) or b'{"problems": []}')

    # what workers do --------------------------------------------------------------------------------------------------

    def begin(self, number: int) -> Attempt:
        """Notes that a part is begun; tells how it went before."""
        content = self.store.read(_begun(number))
        attempt = Attempt()
        if content is not None:
            before = json.loads(content)
            attempt = Attempt(before["times"] + 1, {int(index): count for index, count in before["deaths"].items()})
            if before["at"] is not None:
                attempt.deaths[before["at"]] = attempt.deaths.get(before["at"], 0) + 1
        self.at(number, attempt, None)
        return attempt

    def at(self, number: int, attempt: Attempt, index: int | None) -> None:
        """Notes which picture of a part is worked on alone."""
        told = {"times": attempt.times, "deaths": attempt.deaths, "at": index}
        self.store.write(_begun(number), json.dumps(told).encode())

    def end(self, part: Part, record: dict[str, Any]) -> None:
        """Notes that a part's results are there."""
        counts = (record["done"], record["failed"])
        self.store.write(_done(part.number, *counts), json.dumps(record).encode())
        if part.before is not None and part.before != counts:
            self.store.remove(_done(part.number, *part.before))
        self.store.remove(_begun(part.number))


def _begun(number: int) -> str:
    return f"{FOLDER}/begun/{number:06d}.json"


def _done(number: int, good: int, bad: int) -> str:
    return f"{FOLDER}/done/{number:06d}.{good}.{bad}.json"
