"""`segmentarium export-web DIR`: the page with the network inside it, as plain files."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", type=Path, metavar="DIR", help="folder for the page; made if it is not there")
    parser.add_argument(
        "--models", default="person", metavar="[NAME=]MODEL,…", help="names or weights files that know a person"
    )
    parser.add_argument(
        "--runtime",
        type=Path,
        metavar="DIR",
        help="unpacked npm package onnxruntime-web (default: fetched by npm, once)",
    )


def run(options: argparse.Namespace) -> int:
    """0: the folder is complete; 1: npm could not fetch the runtime."""
    from segmentarium.cli.progress import waiting
    from segmentarium.cli.serve import named_models
    from segmentarium.web import export_web

    try:
        with waiting("exporting the networks"):
            files = export_web(
                named_models(options.models), options.out, runtime=options.runtime, overwrite=options.overwrite
            )
    except RuntimeError as error:
        if options.debug:
            raise
        print(f"segmentarium export-web: {error}", file=sys.stderr)
        return 1
    size = sum(file.stat().st_size for file in files) / 1e6
    print(f"{len(files)} files, {size:.1f} MB, in {options.out}; any web server can serve them, for example")
    print(f"    python -m http.server --bind 127.0.0.1 --directory {options.out}")
    return 0
