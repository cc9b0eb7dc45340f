"""Learnt key points beside OpenCV's on sequences with known homographies, by HPatches' protocol, in one run.

    python -m benchmarks.keypoints --root DIR [DIR …] [--model superpoint.free FILE …] [--classical sift orb …] [--csv FILE]

Repeatability and localisation error: 240×320, the best 300 points that both pictures show, suppression within 4 pixels, found
again within 3.  Matching score, NN-mAP and homographies (mean error of the corners of at most 1, 3 and 5 pixels): 480×640, up to
1,000 points, suppression within 8 pixels, mutual nearest neighbours, RANSAC at 3 pixels.  Pictures keep their ratio and lose what
does not fit.  A picture and a warp that show nothing in common count as 0.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segmentarium.benchmarking.machine import describe, machine_facts
from segmentarium.contracts import KeypointModel
from segmentarium.evaluation.keypoints import COLUMNS, Contender, Protocol, cell, classical, evaluate_keypoints, learnt
from segmentarium.matching.classical import NAMES
from segmentarium.weights import load


def contenders_of(
    models: Sequence[str], names: Sequence[str], protocol: Protocol, subpixel: bool
) -> dict[str, Contender]:
    """All that are compared, by name.  TypeError for a model that gives no such points."""
    found = {}
    for name in models:
        model = load(name)
        if not isinstance(model, KeypointModel) or model.joints:
            raise TypeError(
                f"{name} is a {model.kind} and gives no points with descriptors; give one such as superpoint"
            )
        found[name] = learnt(model, protocol, subpixel=subpixel)
    return found | {name: classical(name, protocol) for name in names}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    lines = ["| change | pairs | detector | " + " | ".join(title for _, title in COLUMNS) + " |"]
    lines.append("|---|---|---|" + "---|" * len(COLUMNS))
    for row in rows:
        cells = [cell(row[key]) for key, _ in COLUMNS]
        lines.append(f"| {row['change']} | {row['pairs']} | {row['detector']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", nargs="+", required=True, type=Path, help="folders of sequences")
    parser.add_argument("--model", nargs="*", default=[], help="names or files of weights")
    parser.add_argument("--classical", nargs="*", default=list(NAMES), choices=NAMES, help="default: all")
    parser.add_argument("--subpixel", action="store_true", help="learnt points between the pixels")
    parser.add_argument("--small", nargs=2, type=int, default=(240, 320), metavar=("H", "W"), help="of repeatability")
    parser.add_argument("--large", nargs=2, type=int, default=(480, 640), metavar=("H", "W"), help="of matching")
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args(arguments)
    protocol = Protocol(small=tuple(options.small), large=tuple(options.large))
    contenders = contenders_of(options.model, options.classical, protocol, options.subpixel)
    started = time.perf_counter()

    def tell(done: int, total: int) -> None:
        print(f"\r{done} of {total} pairs", end="" if done < total else "\n", file=sys.stderr, flush=True)

    rows = evaluate_keypoints(contenders, options.root, protocol, progress=tell)
    print(table(rows))
    print(f"{describe(machine_facts())}; {time.perf_counter() - started:.0f} s")
    if options.csv is not None:
        with options.csv.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
