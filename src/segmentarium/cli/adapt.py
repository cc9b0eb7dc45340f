"""`segmentarium adapt`: points of pictures nobody labelled, by homographic adaptation of a detector."""

from __future__ import annotations

import argparse
import sys

from segmentarium.checks import check_choice


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("source", help="folder of pictures, at any depth")
    add(
        "--model",
        required=True,
        help="weights of a detector of points: a file, a name of the catalogue, or hf:OWNER/NAME",
    )
    add("--out", required=True, metavar="DIR", help="folder for images/ and points/; one that is there is gone on with")
    add("--homographies", type=int, default=100, help="views of each picture, itself included (default: 100)")
    add(
        "--long-side",
        type=int,
        default=320,
        help="pixels of the longer side that pictures are brought to (default: 320)",
    )
    add("--threshold", type=float, default=0.015, help="a point's mean score is greater (default: 0.015)")
    add("--radius", type=int, default=4, help="pixels around a point within which there is no second (default: 4)")
    add("--border", type=int, default=4, help="pixels along the edges where there is none (default: 4)")
    add("--most", type=int, default=600, help="points of a picture, the surest (default: 600)")
    add("--seed", type=int, default=0, help="of the homographies")
    add("--batch-size", type=int, default=8, help="views to one call (default: 8)")
    add("--precision", default="fp32", help="fp32 (default) or bf16")
    add("--device", help="cpu, cuda, cuda:1, …; default: the first GPU, else cpu")


def run(options: argparse.Namespace) -> int:
    """0: every picture is labelled; 1: some could not be; 2: none."""
    check_choice("precision", options.precision, ("fp32", "bf16"))
    from dataclasses import fields

    from segmentarium.cli.progress import progress
    from segmentarium.inference.adaptation import Adaptation, adapt
    from segmentarium.wording import problem

    settings = Adaptation(**{f.name: getattr(options, f.name) for f in fields(Adaptation) if hasattr(options, f.name)})
    problems: list[str] = []
    with progress("adapting", None) as tell:
        points = adapt(
            options.model,
            options.source,
            options.out,
            settings,
            progress=tell,
            failed=lambda path, error: problems.append(problem(str(path), error)),
            batch_size=options.batch_size,
            precision=options.precision,
            device=options.device,
            overwrite=options.overwrite,
        )
    for line in problems:
        print(f"segmentarium adapt: {line}", file=sys.stderr)
    if not points:
        print("segmentarium adapt: no picture could be labelled", file=sys.stderr)
        return 2
    print(
        f"{sum(points.values())} points in {len(points)} pictures; train on them: segmentarium train --data points --root "
        f"{options.out}"
    )
    return 1 if problems else 0
