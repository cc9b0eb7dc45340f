"""`segmentarium keypoints`: points with descriptors of pictures, videos or the webcam; of a network of joints, skeletons."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from segmentarium.cli.engines import add_computing
from segmentarium.memory import memory_errors

MODEL = "superpoint.free"
OF_POINTS = ("count", "threshold", "radius", "border", "subpixel")  # options that a network of joints has no use for


def add_points(parser: argparse.ArgumentParser) -> None:
    """The options that say which points are taken."""
    parser.add_argument("--count", type=int, help="the best so many points of a picture (default: 2048)")
    parser.add_argument("--threshold", type=float, help="a point's score is greater (default: the model's own)")
    parser.add_argument("--radius", type=int, help="pixels around a point without a second (default: the model's own)")
    parser.add_argument("--border", type=int, help="pixels along the edges without points (default: the model's own)")
    parser.add_argument("--subpixel", action="store_true", default=None, help="places between the pixels")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("source", nargs="+", help="picture, video, folder, glob, http(s) address, or number of a webcam")
    add("--model", default=MODEL, help=f"a name, a weights file, or hf:OWNER/NAME (default: {MODEL})")
    add("--out", default="keypoints", metavar="DIR", help="folder for the results (default: keypoints)")
    add(
        "--kinds",
        metavar="KIND,…",
        help="of overlay,json,npz (descriptors); of joints and of clips overlay,json (default: all)",
    )
    add_points(parser)
    add("--flip", action="store_true", help="of joints: average with the mirrored picture")
    add_computing(parser)


def run(options: argparse.Namespace) -> int:
    """0: everything was done; 1: some inputs failed; 2: nothing could be done."""
    from segmentarium.cli.progress import progress
    from segmentarium.inference.result import check_kinds
    from segmentarium.media.sources import DamagedError, expand
    from segmentarium.wording import problem

    items = expand(list(options.source))
    finder = finder_of(options)
    kinds = None if options.kinds is None else tuple(kind.strip() for kind in options.kinds.split(","))
    if kinds is not None:
        check_kinds(kinds, tuple(finder.gives.endings))
    done, troubled = 0, False
    with progress("finding", len(items)) as tell:
        for number, item in enumerate(items):
            tell(number, words=item.name)
            try:
                _do(item, finder, options, {} if kinds is None else {"kinds": kinds})
                done += 1
            except (ValueError, OSError, ImportError, MemoryError) as error:
                if options.debug:
                    raise
                troubled = True
                done += isinstance(error, DamagedError)
                print(f"segmentarium keypoints: {problem(item.origin, error)}", file=sys.stderr)
    if not done:
        print(f"segmentarium keypoints: none of {len(items)} inputs could be done", file=sys.stderr)
        return 2
    print(f"{done} of {len(items)} done with {finder.model_name} on {finder.network.engine}; see {options.out}")
    return 1 if troubled else 0


def finder_of(options: argparse.Namespace) -> Any:
    """A finder of points, or of joints where the model gives those."""
    from segmentarium.contracts import KeypointModel
    from segmentarium.inference.points import KeypointFinder
    from segmentarium.inference.poses import PoseFinder
    from segmentarium.weights import load

    model = load(options.model)
    engine = {"engine": options.engine, "precision": options.precision, "device": options.device}
    points = {name: value for name in OF_POINTS if (value := getattr(options, name)) is not None}
    if isinstance(model, KeypointModel) and model.joints:
        if points:
            raise ValueError(f"--{next(iter(points))} is for points; {options.model} finds joints: leave it out")
        finder: Any = PoseFinder(model, flip=options.flip, **engine)
    else:
        if options.flip:
            raise ValueError(f"--flip is for joints; {options.model} finds points: leave it out")
        finder = KeypointFinder(model, **points, **engine)
    finder.model_name = options.model
    return finder


@memory_errors()
def _do(item: Any, finder: Any, options: argparse.Namespace, kinds: dict[str, Any]) -> None:
    """One input, done and told.  DamagedError, with its files written, for a clip that is cut off."""
    if item.kind != "picture":
        from segmentarium.inference.point_video import points_of_video
        from segmentarium.media.sources import DamagedError

        if item.kind == "webcam":
            print("recording; Ctrl-C ends it", file=sys.stderr)
        _, frames, rate, damage = points_of_video(finder, item, Path(options.out), **kinds, overwrite=options.overwrite)
        print(f"{item.name}: {frames} frames, {rate:.1f} a second")
        if damage is not None:
            raise DamagedError(damage)
        return
    # refused before the work
    finder.gives.files(options.out, item.name, **kinds, inputs=[item.path], overwrite=options.overwrite)
    result = finder(item.load(), name=item.name, path=item.path)
    result.save(options.out, **kinds, overwrite=options.overwrite)
    if not hasattr(result, "keypoints"):
        print(f"{item.name}: {(result.scores > 0.2).sum()} joints")
        return
    note = f"; {result.facts['note']}" if "note" in result.facts else ""
    print(f"{item.name}: {len(result.keypoints)} points{note}")
