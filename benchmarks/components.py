"""Objects told apart without being learnt apart: a plain segmenter's connected parts, scored as instances.

    segmentarium train --data instances --root DIR/nuclei --model deeplabv3plus_resnet50 --output runs/nuclei-semantic …
    python -m benchmarks.components --model runs/nuclei-semantic --data instances --root DIR/nuclei [--split val]

What hangs together in the mask of a class is an object, its score the mean of that class's probability in it.  By its AP and PQ
is seen what a mask classifier or a detector brings on the same pictures (`segmentarium evaluate --task instance`).
"""

from __future__ import annotations

import argparse

import cv2
import numpy as np
import torch

from segmentarium.data import build_dataset, evaluation_split
from segmentarium.data.segments import SegmentDataset
from segmentarium.evaluation.classes import ClassMatch
from segmentarium.evaluation.segments import LabelledPicture, SegmentTally
from segmentarium.inference import Predictor
from segmentarium.inference.segment_map import SegmentMap, measured
from segmentarium.weights import load

LEAST = 4  # pixels of an object


def parts(probabilities: np.ndarray) -> SegmentMap:
    """(1 + K, H, W), a background and K classes -> the connected parts of each class."""
    mask = probabilities.argmax(0)
    ids, known = np.zeros(mask.shape, np.int32), {}
    for label in range(1, len(probabilities)):
        count, found, facts, _ = cv2.connectedComponentsWithStats((mask == label).astype(np.uint8), connectivity=4)
        sums = np.bincount(found.ravel(), probabilities[label].ravel(), count)
        for number in range(1, count):
            area = int(facts[number, cv2.CC_STAT_AREA])
            if area >= LEAST:
                known[len(known) + 1] = (label - 1, float(sums[number] / area))
                ids[found == number] = len(known)
    return measured(ids, known)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a segmenter of the data's classes behind a background")
    parser.add_argument("--data", default="instances")
    parser.add_argument("--root", required=True)
    parser.add_argument("--split")
    options = parser.parse_args()
    split = options.split or evaluation_split(options.data, options.root)
    data = build_dataset(options.data, options.root, split)
    assert isinstance(data, SegmentDataset), f"{options.data} has no objects"
    model = load(options.model)
    if model.num_classes != data.info.num_classes + 1:
        raise ValueError(
            f"the model has {model.num_classes} classes; expected a background and {data.info.num_classes}"
        )
    predictor = Predictor(model)
    tally = SegmentTally(ClassMatch(data.info.classes, data.info.palette), data.things, ("mask", "box"), 0)
    for index in range(len(data)):
        picture, truth = data.load(index)
        result = predictor(np.asarray(picture), keep_probabilities=True)
        assert result.probabilities is not None
        tally.add(LabelledPicture(index, data.name(index), picture, torch.empty(0), truth), parts(result.probabilities))
    quality, precision, _ = tally.scores()
    print(f"{len(data)} pictures of {options.root}, {split}: connected parts of {options.model}")
    print(
        "   ".join(
            f"{key} {100 * value:.2f}"
            for key, value in (precision | quality).items()
            if isinstance(value, float) and value == value
        )
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
