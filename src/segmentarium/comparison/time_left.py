"""How long a comparison will take from here."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from segmentarium.comparison.candidates import Candidate
    from segmentarium.comparison.engine import ComparisonOptions
    from segmentarium.comparison.records import Record


class TimeLeft:
    """How long a comparison will take from here: each part that is left as long as those of its kind took.

    parts     number of parts that are left, by kind ("training", "evaluation", "timing")
    seconds   of a training, where the budget says them
    """

    def __init__(self, parts: Mapping[str, int], seconds: float | None = None) -> None:
        self.parts = dict(parts)
        self.taken: dict[str, list[float]] = {kind: [] for kind in parts}
        self.seconds = seconds

    @classmethod
    def of(cls, candidates: Sequence[Candidate], records: Sequence[Record], options: ComparisonOptions) -> TimeLeft:
        """Of candidates whose finished parts are on record."""
        parts = {"training": 0, "evaluation": 0, "timing": 0}
        for candidate, record in zip(candidates, records, strict=True):
            parts["training"] += bool(candidate.stages) and record.read("training") is None
            parts["evaluation"] += record.read("evaluation") is None
            parts["timing"] += len(options.engines) - len((record.read("timing") or {"forms": {}})["forms"])
        return cls(parts, options.budget.amount if options.budget.kind == "time" else None)

    def __str__(self) -> str:
        """ "; about 12 min left", "; 3 min left at least" where a kind was not met yet, or nothing where none was"""
        total, known = 0.0, True
        for kind, number in self.parts.items():
            taken = self.taken[kind]
            mean = sum(taken) / len(taken) if taken else self.seconds if kind == "training" else None
            known = known and (mean is not None or not number)
            total += number * (mean or 0.0)
        if not total:
            return ""
        from segmentarium.training.probe import duration  # loads PyTorch, which a comparison has loaded by now

        return f"; about {duration(total)} left" if known else f"; {duration(total)} left at least"

    @contextmanager
    def part(self, kind: str, wanted: bool = True) -> Iterator[None]:
        """One part of a kind: measured, and no longer left, whatever came of it; nothing where it was done before."""
        started = time.perf_counter()
        try:
            yield
            if wanted:
                self.taken[kind].append(time.perf_counter() - started)
        finally:
            self.without(kind, int(wanted))

    def without(self, kind: str, number: int) -> None:
        """So many parts of a kind will not be done."""
        self.parts[kind] = max(0, self.parts[kind] - number)
