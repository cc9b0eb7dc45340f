"""`segmentarium verify NAME --root DATA`: published weights scored by the published protocol, beside the published value."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="of published weights (`segmentarium weights`)")
    parser.add_argument("--root", type=Path, required=True, help="folder of the data set that they were scored on")
    parser.add_argument("--data", help="how it is read, where its published name does not tell")
    parser.add_argument("--limit", type=int, help="stop after so many images")
    parser.add_argument("--device", help="default: a GPU where there is one")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there")


def run(options: argparse.Namespace) -> int:
    from segmentarium.cli.main import parser_for
    from segmentarium.weights.data_sets import DATA_SETS
    from segmentarium.weights.published import named

    row = named(options.name)
    data = options.data or (DATA_SETS[row.data_set].reader(row.task) if row.data_set in DATA_SETS else None)
    if data is None:
        raise ValueError(
            f"{row.name} was scored on {row.data_set!r}, for which there is no reader by that name; give --data"
        )
    words = ["--model", row.name, "--data", data, "--root", str(options.root)]
    words += ["--task", row.task] if row.task in ("panoptic", "instance") else []
    for name in ("limit", "device", "json"):
        if (value := getattr(options, name)) is not None:
            words += [f"--{name}", str(value)]
    words += ["--overwrite"] if options.overwrite else []
    code = parser_for("evaluate").parse_args(words)
    done = code.run(code)
    print(f"published: {row.value or 'no value'} {row.metric} ({row.note})")
    return done
