"""`segmentarium serve`: the page and the HTTP API on this machine."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
from pathlib import Path
from typing import NoReturn

from segmentarium.cli.engines import add_engine

EXAMPLES = (
    ("segmentarium serve", "http://127.0.0.1:8000/"),
    ("segmentarium serve --models person,mine=runs/mine --port 8080", ""),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine only)"
    )
    parser.add_argument("--port", type=int, default=8000, help="default: 8000; 0: any that is free")
    parser.add_argument(
        "--models",
        default="person,street",
        metavar="[NAME=]MODEL,…",
        help="names, weights files, exported networks or folders of trainings; the first is the default",
    )
    add_engine(parser)
    parser.add_argument(
        "--task",
        choices=("semantic", "instance", "panoptic"),
        help="of mask classifiers, where a request does not say (default: what each was trained for, as its file says)",
    )
    parser.add_argument("--max-upload", type=float, default=32, metavar="MB", help="of one request (default: 32)")
    parser.add_argument(
        "--max-pixels", type=float, default=40, metavar="MP", help="of one picture (default: 40 million)"
    )
    parser.add_argument(
        "--queue", type=int, default=24, metavar="N", help="requests at a time, 503 beyond (default: 24)"
    )
    parser.add_argument("--workers", type=int, default=4, metavar="N", help="pictures at a time (default: 4)")
    parser.add_argument(
        "--timeout", type=float, default=60, metavar="S", help="seconds a request may take (default: 60)"
    )


def run(options: argparse.Namespace) -> int:
    """Ends the process when the server is ended; 1 where the address cannot be had; ValueError for wrong usage."""
    from segmentarium.web import Limits, serve

    limits = Limits(
        upload_bytes=round(options.max_upload * 2**20),
        pixels=round(options.max_pixels * 1e6),
        places=options.queue,
        workers=options.workers,
        seconds=options.timeout,
        upload_seconds=options.timeout,
    )
    models = named_models(options.models)
    try:
        serve(models, host=options.host, port=options.port, engine=options.engine, task=options.task, limits=limits)
    except OSError as error:
        if options.debug:
            raise
        print(f"segmentarium serve: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("segmentarium: interrupted", file=sys.stderr)
        _leave(130)
    except SystemExit as end:  # SIGTERM: 143
        _leave(end.code if isinstance(end.code, int) else 1)
    return 0


def _leave(code: int) -> NoReturn:
    """Ends the process now: whoever waited for an answer has one, and Python's own end takes seconds, or waits for threads."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # nobody may be reading any more
            stream.flush()
    os._exit(code)


def named_models(text: str) -> dict[str, str]:
    """ "person,mine=best.safetensors" -> {"person": "person", "mine": "best.safetensors"}; a file's own name is its stem.

    A "=" in a path, or in what there is under that name, is no end of a name.
    """
    found: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, sign, source = part.partition("=")
        if not sign or re.search(r"[\\/]", name) or Path(part).exists():
            name, source = "", part
        name = name or re.sub(r"\.(safetensors|onnx|xml)$", "", re.split(r"[\\/]", source.rstrip("\\/"))[-1])
        if name in found:
            raise ValueError(f"--models has two models called {name!r}; write NAME=MODEL to tell them apart")
        found[name] = source
    if not found:
        raise ValueError("--models is empty; give at least one, e.g. person")
    return found
