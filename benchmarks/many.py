"""How many pictures a second `segmentarium batch` does with one worker and with two, and where a cluster saturates.

    python -m benchmarks.many [--pictures 200] [--size 480x640] [--model person]    # measured here
    python -m benchmarks.many --simulate [--seconds 0.05] [--workers 1,10,100,400]    # 100 workers, simulated

The measurement draws pictures, writes them as JPEG, and runs the job with one worker and with two in turns; the workers' start
is told apart.  The simulation runs no network: it moves parts of pictures through a driver that hands them out, a store that
gives so many bytes and takes so many requests a second, and workers for whom a picture takes `--seconds`, and says where more of
them help no longer.
"""

from __future__ import annotations

import argparse
import heapq
import json
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

MANIFEST = 3  # files of the manifest that a part makes or removes


@dataclass(frozen=True)
class Plan:
    """What a job on a cluster consists of.

    pictures, part     how many, and how many of them are recorded together
    seconds            of a worker, for a picture (what `report.json` says of one worker, 1 / per_second)
    picture, result    bytes that are read and written for a picture
    bandwidth          bytes a second of the store, to all readers together
    requests           that the store answers a second, reading and writing together
    reads              requests that read a part: as many as pictures, or a few where they stand in tables
    files              results of a part: 1 of --kind rle and parquet, as many as pictures of --kind masks
    dispatch           seconds of the driver for a part
    start              seconds of a worker until it has its model
    """

    pictures: int = 1_000_000
    part: int = 128
    seconds: float = 0.05
    picture: float = 200e3
    result: float = 5e3
    bandwidth: float = 1.25e9
    requests: float = 3500.0
    reads: int = 128
    files: int = 128
    dispatch: float = 0.002
    start: float = 15.0


class Server:
    """What serves one after the other; `worked`: its seconds of work."""

    def __init__(self) -> None:
        self.free = self.worked = 0.0

    def serve(self, now: float, seconds: float) -> float:
        """When work of so many seconds is done that comes now."""
        self.free = max(now, self.free) + seconds
        self.worked += seconds
        return self.free


def simulate(plan: Plan, workers: int) -> dict[str, float]:
    """{"seconds", "per_second", and the share of that time in which each was busy: "workers", "driver", "bandwidth", "requests"}.

    A worker asks the driver for a part, reads it while it computes, and asks again when its results are there; the bytes and the
    requests of all go through one server each, whole parts at a time.
    """
    driver, moved, requests = Server(), Server(), Server()
    left, computed, ends = plan.pictures, 0.0, 0.0
    events = [(plan.start, number, 0) for number in range(workers)]  # when, who, pictures to be written; 0: it asks
    while events:
        now, number, computing = heapq.heappop(events)
        if computing:
            written = requests.serve(now, (min(plan.files, computing) + MANIFEST) / plan.requests)
            written = max(written, moved.serve(now, computing * plan.result / plan.bandwidth))
            ends = max(ends, written)
            heapq.heappush(events, (written, number, 0))
        elif left:
            count = min(plan.part, left)
            left -= count
            given = driver.serve(now, plan.dispatch)
            asked = requests.serve(given, min(plan.reads, count) / plan.requests)
            read = max(asked, moved.serve(given, count * plan.picture / plan.bandwidth))
            computed += count * plan.seconds
            heapq.heappush(events, (max(given + count * plan.seconds, read + plan.seconds), number, count))
    busy = {
        "workers": computed / workers,
        "driver": driver.worked,
        "bandwidth": moved.worked,
        "requests": requests.worked,
    }
    return {"seconds": ends, "per_second": plan.pictures / ends} | {name: taken / ends for name, taken in busy.items()}


def limits(plan: Plan) -> dict[str, float]:
    """Pictures a second that no number of workers exceeds, by what stands in the way."""
    return {
        "driver": plan.part / plan.dispatch,
        "bandwidth": plan.bandwidth / (plan.picture + plan.result),
        "requests": plan.requests * plan.part / (plan.reads + MANIFEST + plan.files),
    }


def table(plan: Plan, counts: list[int]) -> list[str]:
    """Lines of Markdown: pictures a second, what the last worker adds, and who is busy."""
    rows = [
        "| workers | pictures a second | of ideal | workers busy | bandwidth | requests | driver |",
        "|---" * 7 + "|",
    ]
    for count in counts:
        found = simulate(plan, count)
        shares = [found[name] for name in ("workers", "bandwidth", "requests", "driver")]
        ideal = count / plan.seconds
        rows.append(
            f"| {count} | {found['per_second']:,.0f} | {found['per_second'] / ideal:.0%} | "
            + " | ".join(f"{share:.0%}" for share in shares)
            + " |"
        )
    told = ", ".join(f"{name} {rate:,.0f}" for name, rate in limits(plan).items())
    return [*rows, "", f"At the most, a second: {told}."]


def draw(folder: Path, count: int, height: int, width: int) -> None:
    """So many JPEG files of smooth colours with noise."""
    from PIL import Image

    random = np.random.default_rng(0)
    for number in range(count):
        small = Image.fromarray(random.integers(0, 256, (6, 8, 3), np.uint8))
        smooth = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), np.int16)
        noisy = (smooth + random.integers(-8, 9, smooth.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{number:05d}.jpg", quality=90)


def note(times: list[float], *_: int) -> None:
    times.append(time.perf_counter())


def measure(options: argparse.Namespace) -> None:
    from segmentarium.benchmarking.machine import describe, machine_facts
    from segmentarium.scale import batch

    print(describe(machine_facts()))
    height, width = (int(side) for side in options.size.split("x"))
    with tempfile.TemporaryDirectory() as place:
        photos = Path(place, "photos")
        photos.mkdir()
        draw(photos, options.pictures, height, width)
        rows = []
        for turn in range(options.rounds):
            for workers in (1, 2):
                times: list[float] = []
                report = batch(
                    photos, options.model, Path(place, f"{workers}-{turn}"), workers=workers, part_size=options.part_size,
                    kind=options.kind, progress=partial(note, times),
                )  # fmt: skip
                steady = (len(times) - workers) * options.part_size / (times[-1] - times[workers - 1])
                rows.append((workers, report, steady))
                print(json.dumps({"workers": workers, "steady": round(steady, 2), **report.as_dict()}))
    for workers in (1, 2):
        best = max(steady for count, _, steady in rows if count == workers)
        print(f"{workers} worker{'s' * (workers > 1)}: {best:.1f} pictures a second, the start left out")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulate", action="store_true")
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--size", default="480x640")
    parser.add_argument("--model", default="person")
    parser.add_argument("--kind", default="masks")
    parser.add_argument("--part-size", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=Plan.seconds)
    parser.add_argument("--dispatch", type=float, default=Plan.dispatch)
    parser.add_argument("--workers", default="1,10,50,100,200,400")
    options = parser.parse_args()
    if not options.simulate:
        measure(options)
        return
    counts = [int(count) for count in options.workers.split(",")]
    for words, reads, files in (
        ("files, --kind masks", Plan.part, Plan.part),
        ("files, --kind parquet", Plan.part, 1),
        ("tables of bytes, --kind parquet", 4, 1),
    ):
        plan = Plan(seconds=options.seconds, dispatch=options.dispatch, reads=reads, files=files)
        print(f"{words}: {plan}\n")
        print("\n".join(table(plan, counts)), "\n")


if __name__ == "__main__":
    main()
