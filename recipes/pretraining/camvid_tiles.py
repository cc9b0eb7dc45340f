"""CamVid cut into squares with one class each, and what people labelled in them as label maps: token labeling that runs here.

    python recipes/pretraining/camvid_tiles.py --camvid DIR/camvid --out runs/camvid_tiles
    R=recipes/pretraining/lvvit_here.py
    segmentarium train --recipe $R --output runs/tokens/maps --token-labels runs/camvid_tiles/maps
    segmentarium train --recipe $R --output runs/tokens/plain                                        # no maps
    segmentarium train --recipe $R --output runs/tokens/unmixed --token-labels runs/camvid_tiles/maps --set mix_token=false

A square of 120 pixels has the class that most of it shows, if that is at least 30 % of it; void counts nowhere.  The annotator is
the label map itself: the score of a class in a cell is ten times its share of the cell.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from segmentarium.data import build_dataset
from segmentarium.data.label_maps import LabelMaps
from segmentarium.data.text_files import read_lines

SIDE, CELLS, LEAST = 120, 15, 0.3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--camvid", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/camvid_tiles"))
    given = parser.parse_args()
    names = build_dataset("camvid", given.camvid, "train").info.classes
    order = sorted(range(len(names)), key=names.__getitem__)  # as a folder of folders numbers them
    facts = {"annotator": "people", "way": "pixels", "cells": CELLS}
    maps = LabelMaps(given.out / "maps", [names[index] for index in order], facts)
    counts = dict.fromkeys(("train", "val", "test"), 0)
    for part in counts:
        for name in names:  # a class without a square is a class all the same
            (given.out / part / name).mkdir(parents=True, exist_ok=True)
        for stem in read_lines(given.camvid / f"{part}.txt"):
            picture = np.array(Image.open(given.camvid / "images" / f"{stem}.webp").convert("RGB"))
            labels = np.array(Image.open(given.camvid / "labels" / f"{stem}.png"))
            for top in range(0, picture.shape[0] - SIDE + 1, SIDE):
                for left in range(0, picture.shape[1] - SIDE + 1, SIDE):
                    cut = np.s_[top : top + SIDE, left : left + SIDE]
                    shown = np.bincount(labels[cut].reshape(-1), minlength=256)[: len(names)]
                    if shown.max() < LEAST * SIDE**2:
                        continue
                    label = names[int(shown.argmax())]
                    name = f"{label}/{stem}_{top}_{left}"
                    counts[part] += 1
                    target = given.out / part / f"{name}.png"
                    if not target.exists():  # so that a stopped run goes on
                        Image.fromarray(picture[cut]).save(target, compress_level=1)
                    if part == "train" and not maps.path(name).exists():
                        shares = np.stack([(labels[cut] == index) for index in order]).astype(np.float32)
                        cells = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(shares), CELLS)
                        maps.write(name, 10 * cells)
    print(", ".join(f"{count} squares in {part}" for part, count in counts.items()))


if __name__ == "__main__":
    main()
