"""`segmentarium load-check FILE`: what a checkpoint is, what had to be assumed, and a file of ours made of it."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "weights", help="a file, a folder, a catalogue name or hf:OWNER/NAME; any project whose keys are known"
    )
    parser.add_argument("--layout", metavar="NAME", help="the key table to read it by, where several fit")
    parser.add_argument(
        "--out",
        "--convert",
        dest="out",
        type=Path,
        metavar="FILE",
        help="write it as a safetensors file that rebuilds its model",
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def run(options: argparse.Namespace) -> int:
    """0: every tensor fits; 1: some do not, and nothing was written."""
    from segmentarium.files import check_targets
    from segmentarium.weights import inspect_weights, load, save

    if options.out is not None:
        if options.out.suffix != ".safetensors":
            raise ValueError(f"--out is {options.out}; give a file that ends in .safetensors")
        check_targets([options.out], [Path(options.weights)], overwrite=options.overwrite)
    found = inspect_weights(options.weights, layout=options.layout)
    print(found)
    if not found.report.complete:
        return 1
    if options.out is not None:
        model = load(options.weights, layout=options.layout)
        kept = {key: value for key, value in found.facts.items() if key in ("dataset", "metrics", "licences", "notes")}
        print(f"wrote     {save(model, options.out, **kept)}")
    return 0
