"""Are learnt detectors better than Harris, FAST and Shi-Tomasi on shapes whose corners are known, clean and with noise?

    python -m benchmarks.shapes [--models runs/superpoint-1/best.safetensors …] [--count 50] [--size 120 160] [--out shapes.csv]

Average precision and localisation error of detected points on fresh shapes (split "test": no training sees them), as SuperPoint's
paper scores them: a point is right within 2 pixels of one that no surer point has found; suppression within 4 pixels.  "AP" is
of all points of all pictures together, those without corners among them; "mean" is the mean over the kinds that have points.
Noise is the photometric noise of training.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

import segmentarium
from segmentarium.benchmarking.machine import describe, machine_facts
from segmentarium.contracts import KeypointModel, Keypoints
from segmentarium.data.shapes import KINDS, Shapes
from segmentarium.matching.classical import ClassicalDetector
from segmentarium.metrics.repeatability import detection_ap, localisation_error

CLASSICAL = ("harris", "fast", "shi_tomasi")
RADIUS, MOST = 4, 1000
COLUMNS = (
    "detector",
    "pictures",
    "AP",
    "localisation",
    *(f"AP {kind}" for kind in KINDS if kind not in ("ellipses", "noise")),
)

Detector = Callable[[np.ndarray], Keypoints]  # of a grey picture (H, W) uint8


def learnt(name: str) -> Detector:
    """The detector of a model by the name of its weights.  TypeError for a model that gives no such points."""
    model: Any = segmentarium.load(name)
    if not isinstance(model, KeypointModel) or model.joints:
        raise TypeError(f"{name} finds no points; give weights of superpoint")
    model = model.deploy()

    def detect(grey: np.ndarray) -> Keypoints:
        image = torch.from_numpy(grey)[None].expand(model.in_channels, -1, -1)
        return model.detect(model.preprocessing.normalise(image), count=MOST, threshold=1e-4, radius=RADIUS, border=0)

    return detect


def row(detect: Detector, shapes: Shapes) -> dict[str, float]:
    """Scores of a detector on all shapes, and its precision on each kind that has points."""
    drawings = [shapes.drawing(index) for index in range(len(shapes))]
    found = [detect(drawing.image) for drawing in drawings]
    points = [f.keypoints.cpu().double().numpy() for f in found]
    scores = [f.keypoint_scores.cpu().double().numpy() for f in found]
    truth = [d.points[np.lexsort((d.points[:, 0], d.points[:, 1]))].astype(float) for d in drawings]

    def precision(chosen: Sequence[int]) -> float:
        return detection_ap([points[i] for i in chosen], [scores[i] for i in chosen], [truth[i] for i in chosen])

    whole = {"AP": precision(range(len(drawings))), "localisation": localisation_error(points, truth)}
    for number, kind in enumerate(shapes.info.classes):
        if f"AP {kind}" in COLUMNS:
            whole[f"AP {kind}"] = precision([i for i, drawing in enumerate(drawings) if drawing.kind == number])
    of_kinds = [value for name, value in whole.items() if name.startswith("AP ")]
    return whole | {"mean": float(np.mean(of_kinds))}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="*", default=[], help="weights of detectors: files or names of the catalogue")
    parser.add_argument("--count", type=int, default=50, help="pictures a kind (default: 50)")
    parser.add_argument("--size", type=int, nargs=2, default=(120, 160), help="height and width (default: 120 160)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", help="CSV file of the rows")
    given = parser.parse_args(arguments)
    detectors = {name: learnt(name) for name in given.models}
    detectors |= {name: ClassicalDetector(name, MOST, RADIUS) for name in CLASSICAL}
    print(describe(machine_facts()))
    rows = []
    for noise in (False, True):
        shapes = Shapes(split="test", size=given.size, count=given.count, noise=noise, seed=given.seed)
        for name, detect in detectors.items():
            rows.append({"detector": name, "pictures": "noise" if noise else "clean", **row(detect, shapes)})
            shown = "  ".join(f"{key} {value:.3f}" for key, value in rows[-1].items() if isinstance(value, float))
            print(f"{rows[-1]['pictures']}  {name}: {shown}", flush=True)
    if given.out:
        with open(given.out, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
