"""What half precision keeps of trained weights: the share of pixels with float32's class, and mIoU, of a data set's pictures.

    python -m benchmarks.half WEIGHTS … --data camvid --root DIR [--split test] [--every 6]
        [--forms torch-bf16,openvino-bf16] [--threads 1]

WEIGHTS are whatever `--model` of the verbs takes.  `benchmarks.reference` times weights drawn at random, which tell nothing of
this.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segmentarium.data import build_dataset
from segmentarium.inference import Predictor
from segmentarium.metrics import ConfusionMatrix


def measure(weights: str, dataset: Any, every: int, forms: list[str]) -> dict[str, tuple[float, float]]:
    """Form -> (share of the pixels with float32's class, mIoU), "fp32" among them."""
    predictors = {"fp32": Predictor(weights)}
    for form in forms:
        engine, _, precision = form.partition("-")
        predictors[form] = Predictor(weights, engine=engine, precision=precision)
    scores = {form: ConfusionMatrix(len(dataset.info.classes)) for form in predictors}
    same, pixels = dict.fromkeys(predictors, 0), 0
    for index in range(0, len(dataset), every):
        picture, label = (np.asarray(part) for part in dataset.load(index)[:2])
        masks = {form: predictor(picture).mask for form, predictor in predictors.items()}
        pixels += label.size
        for form, mask in masks.items():
            same[form] += int((mask == masks["fp32"]).sum())
            scores[form].update(*(torch.from_numpy(one.astype(np.int64))[None] for one in (mask, label)))
    return {form: (same[form] / pixels, float(scores[form].iou().nanmean())) for form in predictors}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", nargs="+")
    parser.add_argument("--data", required=True)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--every", type=int, default=6, help="one of so many pictures (default: 6)")
    parser.add_argument("--forms", default="torch-bf16,openvino-bf16", metavar="A,B")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    dataset = build_dataset(options.data, options.root, options.split)
    for weights in options.weights:
        found = measure(weights, dataset, options.every, options.forms.split(","))
        print(
            weights,
            *(f"{form} {same:.2%} {100 * miou:.2f}" for form, (same, miou) in found.items()),
            sep="  ",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
