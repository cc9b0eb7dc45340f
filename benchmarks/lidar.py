"""PointPillars from points to boxes, on one sweep: the pillars beside public code's, the whole eager and in each engine, memory.

    python -m benchmarks.lidar [--points FILE | --count 100000] [--threads 2] [--rounds 7] [--engines A,B] [--only pillars]

The network is KITTI's, 69 m ahead and 79 m across, in cells of 16 cm, with weights by lot; every candidate passes, so that
suppression has all 300 to look at.  Without a file the points are drawn, denser near the sensor.

"public" is the encoder of mmdetection3d and OpenPCDet written plainly with PyTorch's operators: cells by `unique`, tables of at
most 32 points a pillar, the layers over all their places, the greatest of each, scattered onto the canvas scan by scan; "public,
dynamic" is their form without tables: means and greatest by `index_add` and `scatter_reduce` over the found pillars.

Everything is timed in alternating rounds, by the clock and by the processor's time of the process, in which another's work shows
less; a ratio is the median over the rounds.  Memory is the process's peak, the interpreter and PyTorch with it.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segmentarium.benchmarking.machine import describe, machine_facts
from segmentarium.benchmarking.memory import peak_mb, reset_peak
from segmentarium.benchmarking.timing import ratio
from segmentarium.cli.memory import keep_freed_memory
from segmentarium.data.clouds import read_points
from segmentarium.inference.scans import ScanDetector
from segmentarium.lidar.pillars import PillarEncoder
from segmentarium.lidar.pointpillars import PointPillars
from segmentarium.registry import create_model

ENGINES = ("torch", "torch bf16", "onnxruntime", "openvino", "openvino bf16")
GOALS = {"pillars": 1.0, "seconds": 1.0, "engine": 2.5, "megabytes": 2000.0}
MOST = 32  # points of a pillar in the tables


def sweep(count: int, area: Sequence[float]) -> np.ndarray:
    """(count, 4) float32 in the area, as many in each ring of a metre."""
    random = np.random.default_rng(0)
    found = np.zeros((0, 4))
    while len(found) < count:
        away, turn = random.uniform(1, 80, 4 * count), random.uniform(-np.pi / 2, np.pi / 2, 4 * count)
        z = random.uniform(area[2], area[5], 4 * count)
        points = np.stack((away * np.cos(turn), away * np.sin(turn), z, random.random(4 * count)), 1)
        inside = (points[:, 0] < area[3]) & (np.abs(points[:, 1]) < area[4])
        found = np.concatenate((found, points[inside]))
    return found[:count].astype(np.float32)


# public encoders --------------------------------------------------------------------------------------------------------


def found_pillars(encoder: PillarEncoder, points: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of one scan (N, F) the points inside, their pillar's number, the pillars' cells, and the offsets from their centres."""
    grid = encoder.grid
    low, size = points.new_tensor(grid.area[:3]), points.new_tensor(grid.cell)
    place = ((points[:, :3] - low) / size).floor()
    inside = ((place >= 0) & (place < points.new_tensor(grid.shape[::-1]))).all(1)
    points, place = points[inside], place[inside].long()
    cells, number = torch.unique(place[:, 1] * grid.shape[2] + place[:, 0], return_inverse=True)
    return points, number, cells, points[:, :3] - (place * size + low + size / 2)


def on_canvas(encoder: PillarEncoder, cells: Tensor, features: Tensor) -> Tensor:
    _, ny, nx = encoder.grid.shape
    canvas = features.new_zeros(features.shape[1], ny * nx)
    canvas[:, cells] = features.T
    return canvas.view(-1, ny, nx)


def described(points: Tensor, mean: Tensor, offset: Tensor) -> Tensor:
    return torch.cat((offset, points[..., 3:], points[..., :3] - mean, offset), -1)


def public_dynamic(encoder: PillarEncoder, batch: Tensor) -> Tensor:
    maps = []
    for scan in batch:
        points, number, cells, offset = found_pillars(encoder, scan)
        total = points.new_zeros(len(cells), 3).index_add(0, number, points[:, :3])
        mean = total / torch.bincount(number, minlength=len(cells))[:, None]
        x = encoder.layers[0](described(points, mean[number], offset))
        wide = number[:, None].expand_as(x)
        top = x.new_zeros(len(cells), x.shape[1]).scatter_reduce(0, wide, x, "amax", include_self=False)
        maps.append(on_canvas(encoder, cells, top))
    return torch.stack(maps)


def public_tables(encoder: PillarEncoder, batch: Tensor) -> Tensor:
    maps = []
    for scan in batch:
        points, number, cells, offset = found_pillars(encoder, scan)
        order = number.argsort(stable=True)
        begins = torch.bincount(number, minlength=len(cells)).cumsum(0).roll(1)
        begins[0] = 0
        rank = torch.arange(len(points)) - begins[number[order]]
        kept = order[rank < MOST]
        row, column = number[kept], rank[rank < MOST]
        table, away = points.new_zeros(len(cells), MOST, 4), points.new_zeros(len(cells), MOST, 3)
        table[row, column], away[row, column] = points[kept], offset[kept]
        count = torch.bincount(row, minlength=len(cells))
        mean = table[..., :3].sum(1, keepdim=True) / count[:, None, None]
        full = torch.arange(MOST) < count[:, None]
        x = described(table, mean, away) * full[..., None]
        x = encoder.layers[0](x.flatten(0, 1)).unflatten(0, x.shape[:2])
        maps.append(on_canvas(encoder, cells, x.amax(1)))
    return torch.stack(maps)


# timing -----------------------------------------------------------------------------------------------------------------


def alternate(runs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, tuple[list[float], list[float]]]:
    """Of each of `runs` the seconds of every round by the clock, and of the processor; one more round, the first, not counted."""
    found: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            clock, processor = time.perf_counter(), time.process_time()
            run()
            if number:
                found[name][0].append(time.perf_counter() - clock)
                found[name][1].append(time.process_time() - processor)
    return found


def report(title: str, times: dict[str, tuple[list[float], list[float]]]) -> None:
    """A table; ratios are the first's time over each other's."""
    base = next(iter(times.values()))
    print(f"\n{title:<28}{'clock (ms)':>12}{'processor (ms)':>16}{'times as fast':>15}{'by processor':>14}")
    for name, (clock, processor) in times.items():
        cells = f"{1e3 * statistics.median(clock):>12.0f}{1e3 * statistics.median(processor):>16.0f}"
        print(f"{name:<28}{cells}{ratio(base[0], clock):>15.2f}{ratio(base[1], processor):>14.2f}", flush=True)


def away(maps: Sequence[Tensor], others: Sequence[Tensor]) -> float:
    """The heads' mean difference over the mean of what they give."""
    return max(float((a - b).abs().mean() / b.abs().mean()) for a, b in zip(maps, others, strict=True))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", help="a file of points (default: drawn)")
    parser.add_argument("--count", type=int, default=100_000, help="of drawn points")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--engines", default=",".join(ENGINES), metavar="A,B", help="may be empty")
    parser.add_argument("--only", choices=("pillars", "whole"), help="one of the two tables")
    options = parser.parse_args(arguments)
    keep_freed_memory()  # as the command line does
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = create_model("pointpillars").eval()
    assert isinstance(model, PointPillars)
    points = sweep(options.count, model.area)
    if options.points:
        points = read_points(options.points).columns(("x", "y", "z", "intensity"))
    batch = torch.from_numpy(np.ascontiguousarray(points))[None]
    print(describe(machine_facts()), f"load {os.getloadavg()[0]:.1f}, {options.threads} threads", sep="\n")
    passed = True
    with torch.inference_mode():
        inside, _, pillars, _ = found_pillars(model.encoder, batch[0])
        print(f"{len(points)} points, {len(inside)} of them in {len(pillars)} pillars")
        if options.only != "pillars":  # first, as the public tables' memory would else count as ours
            passed = compare_whole(model, batch, options)
        if options.only != "whole":
            passed = compare_pillars(model, batch, options.rounds) and passed
    return 0 if passed else 1


def compare_pillars(model: PointPillars, batch: Tensor, rounds: int) -> bool:
    """Ours, as trained and deployed, and both public forms, all of which give the same."""
    encoder = copy.deepcopy(model.encoder)
    for layer in encoder.layers:
        layer.reparameterize()  # type: ignore[operator]
    capped = copy.deepcopy(encoder)
    capped.max_points = MOST
    ours = encoder(batch)
    assert torch.allclose(ours, public_dynamic(encoder, batch), atol=1e-4)
    assert torch.allclose(capped(batch), public_tables(encoder, batch), atol=1e-4)
    runs = {
        "public": lambda: public_tables(model.encoder, batch),
        "public, dynamic": lambda: public_dynamic(model.encoder, batch),
        "ours, as trained": lambda: model.encoder(batch),
        "ours, deployed": lambda: encoder(batch),
        f"ours, {MOST} points a pillar": lambda: capped(batch),
    }
    times = alternate(runs, rounds)
    report("pillars", times)
    best = ratio(times["public, dynamic"][1], times["ours, as trained"][1])
    print(f"as trained against the faster public form, by processor: {best:.2f} (goal {GOALS['pillars']:.1f})")
    return best >= GOALS["pillars"]


def compare_whole(model: PointPillars, batch: Tensor, options: argparse.Namespace) -> bool:
    """Points to boxes; memory of the eager form alone, before any engine is built."""
    eager = ScanDetector(model, 0.0)

    def run(detector: ScanDetector) -> Any:
        return detector.model.chosen(*detector.candidates(batch), threshold=0.0)[0]

    reset_peak()
    run(eager)
    memory = peak_mb() or 0.0
    detectors = {"eager": eager}
    for name in filter(None, options.engines.split(",")):
        engine, _, precision = name.partition(" ")
        try:
            detectors[name] = ScanDetector(model, 0.0, engine, precision or "fp32")
        except (ImportError, ValueError) as error:
            print(f"{name}: {error}", file=sys.stderr)
    reference = eager.maps(batch)
    shares = {name: away(detector.maps(batch), reference) for name, detector in detectors.items()}
    times = alternate(
        {name: lambda detector=detector: run(detector) for name, detector in detectors.items()}, options.rounds
    )
    report("points to boxes", times)
    print(
        "the heads' mean difference from eager: " + ", ".join(f"{name} {share:.1e}" for name, share in shares.items())
    )
    seconds = statistics.median(times["eager"][0])
    best = max(ratio(times["eager"][0], clock) for clock, _ in times.values())
    print(f"eager {seconds:.2f} s (goal {GOALS['seconds']:.0f}), best engine {best:.2f} (goal {GOALS['engine']})")
    print(f"peak memory of eager {memory:.0f} MB (goal {GOALS['megabytes']:.0f})")
    return seconds < GOALS["seconds"] and best >= GOALS["engine"] and memory < GOALS["megabytes"]


if __name__ == "__main__":
    sys.exit(main())
