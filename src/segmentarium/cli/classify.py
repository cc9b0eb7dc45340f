"""`segmentarium classify`: which class each picture belongs to, and how sure the model is of it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from segmentarium.cli.engines import add_computing

TABLE = "classes.csv"

EXAMPLES = (("segmentarium classify photos/ --model runs/classes --top 5 --out classes", ""),)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("source", nargs="+", help="picture, video (each frame), folder, glob or http(s) address")
    add("--model", required=True, help="a weights file of a classifier, a name of the catalogue, or hf:OWNER/NAME")
    add(
        "--out",
        default="classified",
        metavar="DIR",
        help=f"folder for NAME.json of one picture, {TABLE} of several (default: classified)",
    )
    add("--top", type=int, default=5, help="how many of the most probable classes are told (default: 5)")
    add(
        "--size", type=int, help="side of the square that the model sees, in pixels (default: as its file says, or 224)"
    )
    add(
        "--crop-ratio",
        type=float,
        help="share of a picture's shorter side that it shows (default: the file's, or 0.875)",
    )
    add_computing(parser)


def run(options: argparse.Namespace) -> int:
    """0: everything was done; 1: some inputs failed; 2: nothing could be done."""
    from segmentarium.cli.progress import progress
    from segmentarium.files import check_targets
    from segmentarium.inference import ImageClassifier, predict
    from segmentarium.inference.classifier import write_csv
    from segmentarium.media.sources import expand
    from segmentarium.wording import problem

    if options.top < 1:
        raise ValueError(f"--top is {options.top}; give how many classes to tell, 1 or more")
    items = expand(list(options.source))
    if any(item.kind == "webcam" for item in items):
        raise ValueError("a webcam never ends, and its table would not be written; give pictures or videos")
    one = len(items) == 1 and items[0].kind == "picture"
    folder = Path(options.out)
    target = folder / (f"{items[0].name}.json" if one else TABLE)
    check_targets([target], [item.path for item in items], overwrite=options.overwrite)
    classifier = ImageClassifier(
        options.model,
        engine=options.engine,
        precision=options.precision,
        device=options.device,
        size=options.size,
        crop_ratio=options.crop_ratio,
    )
    classifier.network.expected = len(items)
    failed: list[str] = []

    def note(origin: str, error: Exception) -> None:
        if options.debug:
            raise error
        failed.append(origin)
        print(f"segmentarium classify: {problem(origin, error)}", file=sys.stderr)

    def told(tell: Any) -> Iterator[Any]:
        for number, result in enumerate(predict(items, classifier, on_error=note), 1):
            tell(number)
            found = ", ".join(f"{name} {100 * value:.1f} %" for name, value in result.top(options.top))
            print(f"{result.name}: {found}")
            yield result

    with progress("classifying", len(items)) as tell:
        if one:
            done = sum(len(r.save(folder, top=options.top, overwrite=options.overwrite)) for r in told(tell))
        else:
            done = write_csv(told(tell), target, top=options.top, overwrite=options.overwrite)
    if not done:
        print(f"segmentarium classify: none of {len(items)} inputs could be done", file=sys.stderr)
        return 2
    print(f"{done} pictures classified with {options.model} on {classifier.network.engine}; see {target}")
    return 1 if failed else 0
