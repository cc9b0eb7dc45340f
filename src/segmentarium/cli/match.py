"""`segmentarium match A B`: which points of two pictures are the same, and what maps one to the other."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segmentarium.cli.engines import add_computing
from segmentarium.cli.keypoints import MODEL, add_points, finder_of

if TYPE_CHECKING:
    from segmentarium.inference.points import FoundPoints

KEPT = 2**30  # bytes of pictures that wait for the drawings of their pairs; others are read again


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("source", nargs="+", help="two pictures, or more: then each with each; folders, globs, http(s) addresses")
    add("--model", default=MODEL, help=f"a name, a weights file, or hf:OWNER/NAME (default: {MODEL})")
    add("--out", default="matches", metavar="DIR", help="folder for NAME_matches.png and NAME.json (default: matches)")
    add_points(parser)
    add("--ratio", type=float, help="a match's distance is at most this share of the second nearest's, e.g. 0.9")
    add("--distance", type=float, help="greatest distance of matched descriptors, 0 to 2")
    add(
        "--geometry",
        default="homography",
        choices=("homography", "fundamental", "essential"),
        help="what relates the pictures: homography for planes and turning cameras (default)",
    )
    add("--focal", type=float, metavar="PIXELS", help="of both cameras, for --geometry essential; centred")
    add("--method", default="magsac", choices=("magsac", "ransac", "lmeds"), help="default: magsac")
    add("--tolerance", type=float, default=3.0, metavar="PIXELS", help="up to which a match agrees (default: 3)")
    add("--colmap", type=Path, metavar="FILE.db", help="write points and matches as a COLMAP database, too")
    add("--hloc", type=Path, metavar="DIR", help="write features.h5 and matches.h5 as hloc has them, too")
    add_computing(parser)


def run(options: argparse.Namespace) -> int:
    """0: every pair has a geometry; 1: some have none, and their JSON says why, or some pictures cannot be read; 2: nothing
    could be done."""
    import numpy as np

    from segmentarium.cli.progress import progress
    from segmentarium.files import check_targets, free_name
    from segmentarium.inference.matcher import PictureMatch, match_pictures, name_of
    from segmentarium.matching.files import Pair, write_colmap, write_hloc
    from segmentarium.media.sources import displayed, expand, to_array
    from segmentarium.wording import problem

    items = expand(list(options.source))
    if len(items) < 2 or any(item.kind != "picture" for item in items):
        kinds = ", ".join(f"{item.origin} ({item.kind})" for item in items)
        raise ValueError(f"match takes two pictures or more, and got {kinds}")
    if options.geometry == "essential" and options.focal is None:
        raise ValueError("an essential matrix needs the cameras: give --focal PIXELS, or --geometry fundamental")
    for name in ("focal", "tolerance"):
        value = getattr(options, name)
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"--{name} is {value:g}; give pixels, above 0")
    targets = [path for path in (options.colmap,) if path is not None]
    targets += [options.hloc / name for name in ("features.h5", "matches.h5")] if options.hloc else []
    check_targets(targets, overwrite=options.overwrite)
    names, taken = dict[tuple[str, str], str](), set[str]()
    for first, second in itertools.combinations(items, 2):
        # pairs of pictures in different folders may have one name
        names[first.name, second.name] = name = free_name(name_of(first.name, second.name), taken)
        PictureMatch.files(options.out, name, inputs=[first.path, second.path], overwrite=options.overwrite)
    options.flip = False
    finder = finder_of(options)
    if not hasattr(finder, "count"):
        raise ValueError(
            f"{options.model} finds joints, which have no descriptors to match; give a model such as {MODEL}"
        )
    found: list[FoundPoints] = []
    loaders, kept = [], 0
    with progress("finding points", len(items)) as tell:
        for number, item in enumerate(items):
            tell(number)
            assert item.load is not None
            try:
                picture = item.load()
            except (ValueError, OSError) as error:
                if options.debug:
                    raise
                print(f"segmentarium match: {problem(item.origin, error)}", file=sys.stderr)
                continue
            points = finder(picture, name=item.name, path=item.path)
            kept += points.image.nbytes
            if kept > KEPT and item.path is not None:  # an address is not fetched twice
                points = dataclasses.replace(points, image=np.empty((0, 0, 3), np.uint8))
            found.append(points)
            loaders.append(item.load)
    if len(found) < 2:
        raise ValueError(f"{len(found)} of {len(items)} pictures can be read; it takes two")
    files = _files(found)

    @functools.lru_cache(maxsize=2)
    def with_pixels(number: int) -> FoundPoints:
        if found[number].image.size:
            return found[number]
        return dataclasses.replace(found[number], image=displayed(to_array(loaders[number]())))

    pairs: list[Pair] = []
    missing = 0
    for i, j in itertools.combinations(range(len(found)), 2):
        first, second = with_pixels(i), with_pixels(j)
        cameras: Any = None
        if options.focal is not None:
            cameras = tuple(
                np.array(
                    [
                        [options.focal, 0, side.image.shape[1] / 2],
                        [0, options.focal, side.image.shape[0] / 2],
                        [0, 0, 1],
                    ]
                )
                for side in (first, second)
            )
        result = match_pictures(
            first,
            second,
            ratio=options.ratio,
            distance=options.distance,
            kind=options.geometry,
            method=options.method,
            threshold=options.tolerance,
            cameras=cameras,
        )
        result.save(options.out, name=names[first.name, second.name], overwrite=options.overwrite)
        geometry = result.geometry
        told = geometry.reason or f"{geometry.inliers.sum()} agree with a {geometry.kind}"
        print(f"{first.name} – {second.name}: {len(result.pairs)} matches; {told}")
        missing += geometry.matrix is None
        pairs.append(Pair(files[i], files[j], result.pairs, result.distances, geometry))
    pictures = {name: one.keypoints for name, one in zip(files, found, strict=True)}
    if options.colmap is not None:
        write_colmap(options.colmap, pictures, pairs, overwrite=options.overwrite)
    if options.hloc is not None:
        write_hloc(options.hloc, pictures, pairs, overwrite=options.overwrite)
    if missing:
        print(f"segmentarium match: {missing} of {len(pairs)} pairs have no {options.geometry}", file=sys.stderr)
    return 1 if missing or len(found) < len(items) else 0


def _files(found: Sequence[FoundPoints]) -> list[str]:
    """What other programs call the pictures: their files, as they lie in the folder that holds all of them.

    Of an address, and of a file that is there twice, the result's name.
    """
    paths = [one.path.absolute() for one in found if one.path is not None]
    folder = os.path.commonpath([path.parent for path in paths]) if paths else ""
    names: list[str] = []
    for one in found:
        name = one.path.absolute().relative_to(folder).as_posix() if one.path is not None else one.name
        names.append(one.name if name in names else name)
    return names
