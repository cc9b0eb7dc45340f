"""How long a call takes: percentiles of one, or several side by side in alternating rounds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one call; `calls` were measured."""

    p50: float
    p90: float
    p99: float
    least: float
    calls: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Latency:
        """From the measured times, in seconds."""
        import numpy as np

        if not seconds:
            raise ValueError("no call was measured; repeats must be 1 or more")
        p50, p90, p99 = (float(value) for value in np.percentile([s * 1e3 for s in seconds], (50, 90, 99)))
        return cls(p50, p90, p99, min(seconds) * 1e3, len(seconds))

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


LEAST = 3  # calls that are measured, however long they take


def time_calls(run: Callable[[], Any], *, warmup: int = 3, repeats: int = 20, seconds: float | None = None) -> Latency:
    """Runs `warmup` calls unmeasured (compilation, caches, the growth of the heap), then `repeats` measured ones.

    seconds   after so many no further call is measured, once there are three; None: all are
    """
    for _ in range(warmup):
        run()
    found: list[float] = []
    while len(found) < repeats and (seconds is None or len(found) < LEAST or sum(found) < seconds):
        started = time.perf_counter()
        run()
        found.append(time.perf_counter() - started)
    return Latency.of(found)


PAUSE = 0.02  # seconds before a call, in which the threads of the last one's engine stop waiting for more work


def alternate(runs: Mapping[str, Callable[[], Any]], *, warmup: int = 2, rounds: int = 7) -> dict[str, list[float]]:
    """Seconds of every call of `rounds` rounds, each of which calls all of `runs` in turn.

    What disturbs a machine for a while then disturbs all of them alike; compare them by `ratio`.  Engines' threads turn in
    circles for some milliseconds behind a call (ONNX Runtime's, OpenMP's), and would take the next one's cores: hence pauses.
    """
    for run in runs.values():
        for _ in range(warmup):
            run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            time.sleep(PAUSE)
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> float:
    """The median over the rounds of the quotient within each round."""
    return statistics.median(a / b for a, b in zip(numerator, denominator, strict=True))
