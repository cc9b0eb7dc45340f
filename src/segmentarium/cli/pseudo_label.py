"""`segmentarium pseudo-label`: what a trained model is sure of, added to a data set's labels for the next training."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", required=True, help="weights that find objects: a catalogue name, a file or a hub address"
    )
    parser.add_argument(
        "--data", default="coco_instances", metavar="NAME", help="layout of the data set (default: %(default)s)"
    )
    parser.add_argument("--root", required=True, metavar="DIR", help="the data set's folder")
    parser.add_argument("--split", default="train", help="whose labels are added to (default: %(default)s)")
    parser.add_argument("--val-split", default="val", help="copied as it is; none: leave it out (default: %(default)s)")
    parser.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="folder of the new labels; goes on where it was"
    )
    parser.add_argument(
        "--sure", default="0.7", help="score from which on an object is one; by frequency: r=0.4,c=0.6,f=0.7"
    )
    parser.add_argument("--likely", default="0.3", help="score from which on its pixels count nowhere; likewise")
    parser.add_argument("--count", type=int, default=300, help="objects of a picture, at most (default: %(default)s)")
    parser.add_argument("--device", help="cpu, cuda, …")


def threshold(text: str) -> float | dict[str, float]:
    """A number, or letter=number, … for rare, common and frequent classes.  ValueError for anything else."""
    try:
        if "=" not in text:
            return float(text)
        pairs = [one.split("=") for one in text.split(",")]
        return {key.strip(): float(value) for key, value in pairs}
    except ValueError:
        raise ValueError(f"{text!r} is no score; give a number such as 0.7, or r=0.4,c=0.6,f=0.7") from None


def run(args: argparse.Namespace) -> int:
    from segmentarium.cli.progress import progress
    from segmentarium.data import SegmentDataset, build_dataset
    from segmentarium.inference import SegmentPredictor
    from segmentarium.training.self_training import pseudo_labels

    sure, likely = threshold(args.sure), threshold(args.likely)
    splits = [args.split] + ([] if args.val_split == "none" else [args.val_split])
    sets = [build_dataset(args.data, args.root, split) for split in splits]
    for dataset in sets:
        if not isinstance(dataset, SegmentDataset):
            raise ValueError(f"data set {args.data!r} has no objects; give --data coco_instances, lvis, instances, …")
    least = min(likely.values()) if isinstance(likely, dict) else likely
    predictor = SegmentPredictor(args.model, task="instance", threshold=least, count=args.count, device=args.device)
    with progress("finding", len(sets[0])) as tell:
        path = pseudo_labels(
            predictor,
            sets[0],  # type: ignore[arg-type]
            args.out,
            sure=sure,
            likely=likely,
            val=sets[1] if len(sets) > 1 else None,  # type: ignore[arg-type]
            on_progress=tell,
        )
    data = "lvis" if args.data == "lvis" else "coco_instances"
    print(f"written: {path}; train with --data {data} --root {path.parent}")
    return 0
