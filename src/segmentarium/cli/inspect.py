"""`segmentarium inspect FILE`: what a checkpoint is, what had to be assumed, and a file of ours made of it."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from segmentarium.cli.train import pair

    parser.add_argument(
        "weights", help="a file, a folder, a catalogue name or hf:OWNER/NAME; any project whose keys are known"
    )
    parser.add_argument("--layout", metavar="NAME", help="the key table to read it by, where several fit")
    parser.add_argument(
        "--model-arguments",
        nargs="+",
        action="extend",
        type=pair,
        default=[],
        metavar="KEY=VALUE",
        help="arguments of the model in place of assumed ones: output_stride=16 align_corners=true",
    )
    parser.add_argument(
        "--convert",
        "--out",
        dest="convert",
        type=Path,
        metavar="FILE",
        help="write it as a safetensors file that rebuilds its model",
    )


def run(options: argparse.Namespace) -> int:
    """0: every tensor fits; 1: some do not, and nothing was written."""
    from segmentarium.files import check_targets
    from segmentarium.weights import save
    from segmentarium.weights.inspection import inspected
    from segmentarium.weights.source import open_weights
    from segmentarium.weights.store import built

    if options.convert is not None:
        if options.convert.suffix != ".safetensors":
            raise ValueError(f"--convert is {options.convert}; give a file that ends in .safetensors")
        check_targets([options.convert], [Path(options.weights)], overwrite=options.overwrite)
    stored = open_weights(options.weights, options.layout, arguments=dict(options.model_arguments))
    found = inspected(stored)
    print(found)
    if not found.report.complete:
        return 1
    if options.convert is not None:
        kept = {key: value for key, value in found.facts.items() if key in ("dataset", "metrics", "licences", "notes")}
        print(f"wrote     {save(built(stored), options.convert, **kept)}")
    return 0
