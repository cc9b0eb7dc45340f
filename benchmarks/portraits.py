"""What `segmentarium portrait` makes of labelled photographs: its mattes against their masks, and what they cost.

    python -m benchmarks.portraits --data eg1800 --root DIR [--split test] [--model person] [--once] [--no-second-look]
    python -m benchmarks.portraits --data folder --root DIR --split val

Mean IoU (one confusion matrix over all), boundary IoU (0.5 % of the diagonal), and by how much of the picture the person takes:
the IoU of people under 3 % of it, and how often nobody is found there.  Pictures whose mask is empty count as false alarms if
somebody is found.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from segmentarium import Portrait
from segmentarium.benchmarking.machine import describe, machine_facts
from segmentarium.data import build_dataset
from segmentarium.matting.portrait import is_nobody
from segmentarium.metrics import BoundaryIoU, ConfusionMatrix

SMALL = 0.03  # of the picture


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="folder", help="eg1800, or folder with masks of 0 and 1 (default: folder)")
    parser.add_argument("--root", required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--model", default="person")
    parser.add_argument("--quality", default="standard", help="standard or high")
    parser.add_argument("--once", action="store_true", help="one view instead of three sizes, mirrored")
    parser.add_argument("--no-second-look", action="store_true", help="no closer look at people who are small")
    options = parser.parse_args()

    names = {"classes": ("background", "person")} if options.data == "folder" else {}
    data = build_dataset(options.data, options.root, options.split, **names)
    portrait = Portrait(
        "transparent",
        options.model,
        quality=options.quality,
        views=not options.once,
        second_look=not options.no_second_look,
    )
    matrix, edges, small = ConfusionMatrix(2), BoundaryIoU(2, 0.005), ConfusionMatrix(2)
    counts = dict.fromkeys(("pictures", "small", "small, nobody found", "empty", "empty, somebody found"), 0)
    seconds = 0.0
    for index in range(len(data)):
        picture, labels = data.load(index)
        started = time.perf_counter()
        result = portrait(picture)
        seconds += time.perf_counter() - started
        target = torch.as_tensor(labels).long()[None]
        found = torch.from_numpy(result.alpha > 127).long()[None]
        share = float((np.asarray(labels) == 1).mean())
        counts["pictures"] += 1
        if share == 0:
            counts["empty"] += 1
            counts["empty, somebody found"] += not is_nobody(result.share)
            continue
        matrix.update(found, target)
        edges.update(found, target)
        if share < SMALL:
            small.update(found, target)
            counts["small"] += 1
            counts["small, nobody found"] += is_nobody(result.share)
    print(describe(machine_facts()))
    print(f"{options.model}, {options.data} {options.split}: {counts}")
    print(f"{1000 * seconds / max(counts['pictures'], 1):.0f} ms a picture")
    if counts["empty"] < counts["pictures"]:
        print(
            f"mean IoU {100 * matrix.summary()['miou']:.2f}, boundary IoU {100 * edges.summary()['boundary_iou']:.2f}"
        )
    if counts["small"]:
        print(f"people under {SMALL:.0%} of the picture: IoU {100 * matrix_iou(small):.2f}")
    return 0


def matrix_iou(matrix: ConfusionMatrix) -> float:
    """IoU of the person."""
    return float(matrix.iou()[1])


if __name__ == "__main__":
    raise SystemExit(main())
