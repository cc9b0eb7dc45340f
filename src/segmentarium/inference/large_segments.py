"""From a picture file to files of its segments without ever holding the picture: read and joined in tiles, written in rows."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from segmentarium.files import atomic_write, check_targets
from segmentarium.inference.drawing import lay_over
from segmentarium.inference.large import FileResult
from segmentarium.inference.result import description
from segmentarium.inference.segment_drawing import SegmentPainter, names
from segmentarium.inference.segment_map import SegmentMap
from segmentarium.inference.segment_result import (
    check_segment_kinds,
    panoptic_content,
    segment_files,
    segment_list,
    write_numbers,
)
from segmentarium.inference.segments import SegmentPredictor
from segmentarium.labels import IGNORE_INDEX
from segmentarium.media.png import PngWriter
from segmentarium.media.readers import LargePicture

ROWS = 128  # that are painted at a time
NOT_OF_LARGE = ("coco", "yolo", "labelme", "cutouts")


def segment_large_file(
    predictor: SegmentPredictor,
    path: str | PathLike[str],
    folder: str | PathLike[str],
    kinds: Sequence[str] = ("overlay", "mask", "json"),
    *,
    name: str | None = None,
    overwrite: bool = False,
    progress: Callable[[float], None] | None = None,
) -> FileResult:
    """`predictor(path).save(folder, kinds)` for pictures of any size; kinds of "overlay", "mask", "json" and "panoptic".

    The map of segments lies in a temporary file where it is large.  Files appear under their names when all of them are complete.

    overwrite  files that are there are replaced; else FileExistsError is raised
    progress   called with the share that is written, 0..1
    """
    check_segment_kinds(kinds)
    if unfit := [kind for kind in kinds if kind in NOT_OF_LARGE]:
        raise ValueError(
            f"{' and '.join(unfit)} of a large picture would be kept in memory whole; take panoptic instead"
        )
    if len(predictor.classes) > IGNORE_INDEX and "mask" in kinds:
        raise ValueError(f"{len(predictor.classes)} classes do not fit into an index PNG of a large picture; 255 do")
    started = time.perf_counter()
    path = Path(path)
    name = name or path.stem
    paths = segment_files(Path(folder), name, kinds)
    check_targets(paths.values(), [path], overwrite=overwrite)
    picture = LargePicture(path, predictor.preprocessing.bits)
    found = predictor.find(picture.open(), picture.thumbnail)
    rows = picture.open()
    size = (rows.width, rows.height)
    classes, palette, things = predictor.classes, predictor.palette, predictor.things
    with ExitStack() as stack:
        parts = {kind: stack.enter_context(atomic_write(final)) for kind, final in paths.items()}
        if "map" in parts:
            write_numbers(parts["map"], found.ids)
        counts = _paint(predictor, found, rows, size, parts, stack, progress)
        areas = {label: float(counts[i] / (size[0] * size[1])) for i, label in enumerate(classes)}
        facts = predictor.facts(time.perf_counter() - started)
        contents: dict[str, Callable[[], dict[str, Any]]] = {
            "json": lambda: (
                description(name, path, size, classes, palette, areas, facts)
                | {"segments": segment_list(found, classes)}
            ),
            "panoptic": lambda: panoptic_content(found, name, path, classes, palette, things),
        }
        for kind in contents.keys() & parts.keys():
            parts[kind].write_text(json.dumps(contents[kind](), indent=1), encoding="utf-8")
    return FileResult(list(paths.values()), areas, facts)


def _paint(
    predictor: SegmentPredictor,
    found: SegmentMap,
    rows: Any,
    size: tuple[int, int],
    parts: dict[str, Path],
    stack: ExitStack,
    progress: Callable[[float], None] | None,
) -> np.ndarray:
    """Writes overlay and mask, band by band -> pixels of each class (256 or more,)."""
    painter = SegmentPainter(size, found, predictor.palette, predictor.things)
    texts = names(found, predictor.classes, predictor.palette, predictor.things) if "overlay" in parts else []
    palette = [*predictor.palette, *[(0, 0, 0)] * (256 - len(predictor.palette))] if "mask" in parts else []
    files = {
        kind: stack.enter_context(PngWriter(parts[kind], *size, mode, palette if mode == "P" else ()))
        for kind, mode in (("overlay", "RGB"), ("mask", "P"))
        if kind in parts
    }
    table = np.full(max((0, *(one.id for one in found.segments))) + 1, len(predictor.classes), np.int64)
    for one in found.segments:
        table[one.id] = one.label
    counts = np.zeros(len(predictor.classes) + 1, np.int64)
    for top in range(0, size[1], ROWS):
        ids = np.asarray(found.ids[top : top + ROWS])
        labels = table[ids]
        counts += np.bincount(labels.reshape(-1), minlength=len(counts))
        if "mask" in files:
            files["mask"].write(np.where(labels == len(predictor.classes), IGNORE_INDEX, labels).astype(np.uint8))
        if "overlay" in files:
            painted = painter.paint(rows.array(top, top + len(ids)), ids)
            for above, left, box in texts:
                if above < top + len(ids) and above + len(box) > top:
                    inner = max(0, above - top)
                    lay_over(painted[inner:, left:], box, max(0, top - above))
            files["overlay"].write(painted)
        if progress:
            progress((top + len(ids)) / size[1])
    for file in files.values():
        file.close()
    return counts
