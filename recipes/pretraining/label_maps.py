"""Label maps of a data set's training pictures by an annotator, for token labeling; stopped, it goes on where it was.

python recipes/pretraining/label_maps.py --annotator FILE|timm:NAME --root DIR/imagenet --out runs/label_maps
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.progress import Progress

import segmentarium
from segmentarium.data import ClassificationDataset, build_dataset
from segmentarium.inference.annotation import BEST, CELLS, annotate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--annotator", required=True, help="a classifier or segmenter of the same classes: a file, or timm:NAME"
    )
    parser.add_argument("--data", default="imagenet", help="imagenet (default) or imagefolder")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--split", default="train")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", type=int, help="pixels of the square that the annotator sees")
    parser.add_argument("--cells", type=int, default=CELLS, help="rows and columns of a map")
    parser.add_argument("--best", type=int, default=BEST, help="classes that are kept of each cell")
    given = parser.parse_args()
    if given.annotator.startswith("timm:"):
        annotator = segmentarium.create_model(given.annotator, backbone_weights=given.annotator)
    else:
        annotator = segmentarium.load(given.annotator)
    dataset = build_dataset(given.data, given.root, given.split)
    assert isinstance(dataset, ClassificationDataset)
    with Progress() as bar:
        task = bar.add_task("annotating", total=len(dataset))
        annotate(
            annotator,
            dataset,
            given.out,
            cells=given.cells,
            size=given.size,
            best=given.best,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    print(f"{len(dataset)} label maps in {given.out}")


if __name__ == "__main__":
    main()
