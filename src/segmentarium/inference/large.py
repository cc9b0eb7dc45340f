"""From a picture file to mask, overlay and cut-out files without ever holding the picture: read, segment and write in rows."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from segmentarium.brief import Brief
from segmentarium.files import atomic_write
from segmentarium.inference import drawing
from segmentarium.inference.predictor import Predictor
from segmentarium.inference.result import OF_FRAMES, check_files, check_kinds, description
from segmentarium.inference.tta import indices
from segmentarium.matting.cutout import still_erased
from segmentarium.matting.finder import no_foreground
from segmentarium.media.png import PngWriter
from segmentarium.media.readers import LargePicture


@dataclass(repr=False)
class FileResult(Brief):
    """What `segment_file` wrote: the files, class name -> share of the picture, and the facts of the JSON."""

    files: list[Path]
    areas: dict[str, float]
    facts: dict[str, Any]


def segment_file(
    predictor: Predictor,
    path: str | PathLike[str],
    folder: str | PathLike[str],
    kinds: Sequence[str] = ("overlay", "mask", "json"),
    *,
    name: str | None = None,
    overwrite: bool = False,
    progress: Callable[[float], None] | None = None,
) -> FileResult:
    """`predictor(path).save(folder, kinds)` in memory that grows with the picture's width only (and that of its file's
    decoder, see `readers`).

    overwrite  files that are there are replaced; else FileExistsError is raised
    progress   called with the share that is done, 0..1

    Files appear under their names when all of them are complete.  Raises ImageReadError for a damaged file.
    The legend is painted before the last row is known: its entries come from a first look at a thumbnail.  Cut-outs have
    the edge of the mask: a matte would need the whole picture first (`portrait` makes one).
    """
    check_kinds(kinds, OF_FRAMES)
    if len(predictor.classes) > 256:
        raise ValueError(f"{len(predictor.classes)} classes do not fit into an index PNG of a large picture; 256 do")
    if "cutout" in kinds and predictor.foreground is None:
        raise ValueError(no_foreground(predictor.classes))
    started = time.perf_counter()
    path = Path(path)
    name = name or path.stem
    paths = check_files(Path(folder), name, kinds, path, overwrite=overwrite)
    picture = LargePicture(path, predictor.preprocessing.bits)
    rows = picture.open()
    size = (rows.width, rows.height)
    with ExitStack() as stack:
        parts = {kind: stack.enter_context(atomic_write(final)) for kind, final in paths.items()}
        box = _legend(predictor, picture, size) if "overlay" in kinds else None
        sink = stack.enter_context(_Sink(predictor, size, parts, box))
        for block in predictor.blocks(rows, picture.thumbnail):
            if sink.add(block, rows) and progress:
                progress(sink.done / rows.height)
        areas = {label: float(sink.counts[i] / sink.counts.sum()) for i, label in enumerate(predictor.classes)}
        facts = predictor.facts(time.perf_counter() - started)
        if "json" in parts:
            content = description(name, path, size, predictor.classes, predictor.palette, areas, facts)
            parts["json"].write_text(json.dumps(content, indent=1), encoding="utf-8")
        sink.finish()
    return FileResult(list(paths.values()), areas, facts)


def _legend(predictor: Predictor, picture: LargePicture, size: tuple[int, int]) -> np.ndarray | None:
    """The legend of the classes that a thumbnail shows, (h, w, 4)."""
    factor = min(1.0, 1024 / max(size))
    small = predictor(picture.thumbnail(max(1, round(size[0] * factor)), max(1, round(size[1] * factor))))
    box = drawing.legend(size, small.areas, predictor.classes, predictor.palette)
    return None if box is None else np.asarray(box)


class _Sink:
    """Collects the blocks of a band of rows and writes the band into every file."""

    def __init__(
        self, predictor: Predictor, size: tuple[int, int], parts: dict[str, Path], box: np.ndarray | None
    ) -> None:
        self.counts = np.zeros(256, np.int64)
        self.done = 0  # rows that are written
        self._predictor, self._box, self._width = predictor, box, size[0]
        self._painter = drawing.Painter(size, predictor.palette)
        modes = {"mask": "P", "overlay": "RGB", "cutout": "RGBA"}
        palette = predictor.palette
        self._files = {
            kind: PngWriter(part, *size, modes[kind], palette if kind == "mask" else ())
            for kind, part in parts.items()
            if kind in modes
        }
        self._mask = np.empty((0, self._width), np.uint8)
        self._alpha = np.empty((0, self._width), np.uint8)

    def add(self, block: Any, rows: Any) -> bool:
        """Takes one block; True where it completed a band, which is then written."""
        tall, wide = block.logits.shape[-2:]
        if block.left == 0:
            self._mask = np.empty((tall, self._width), np.uint8)
            self._alpha = np.empty((tall, self._width), np.uint8)
        columns = slice(block.left, block.left + wide)
        self._mask[:, columns] = indices(block.logits)[0].cpu().numpy()
        if "cutout" in self._files:
            self._alpha[:, columns] = self._predictor.alpha(block.logits)
        if columns.stop < self._width:
            return False
        for start in range(0, tall, 128):  # in pieces: painting takes several times the size of its rows
            stop = min(start + 128, tall)
            pixels = (
                rows.array(block.top + start, block.top + stop) if len(self._files) > ("mask" in self._files) else None
            )
            alpha = self._alpha[start:stop]
            if "cutout" in self._files:
                alpha = still_erased(alpha, rows.alpha(block.top + start, block.top + stop))
            self._write(block.top + start, pixels, self._mask[start:stop], alpha)
        self.done = block.top + tall
        return True

    def _write(self, top: int, pixels: np.ndarray | None, mask: np.ndarray, alpha: np.ndarray) -> None:
        self.counts += np.bincount(mask.reshape(-1), minlength=256)
        if "mask" in self._files:
            self._files["mask"].write(mask)
        if "overlay" in self._files and pixels is not None:
            painted = self._painter.paint(pixels, mask)
            if self._box is not None:
                drawing.lay_over(painted, self._box, top)
            self._files["overlay"].write(painted)
        if "cutout" in self._files and pixels is not None:
            self._files["cutout"].write(np.dstack((pixels, alpha)))

    def finish(self) -> None:
        """Completes the files."""
        for file in self._files.values():
            file.close()

    def __enter__(self) -> _Sink:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.abandon()
