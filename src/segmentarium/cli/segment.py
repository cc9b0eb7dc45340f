"""`segmentarium segment`: masks, overlays and cut-outs of pictures, folders, videos or the webcam."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segmentarium.inference.predictor import Tile


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", nargs="+", help="picture, video, folder, glob, http(s) address, or number of a webcam"
    )
    parser.add_argument("--model", default="person", help="a name (person, street), a weights file, or hf:OWNER/NAME")
    parser.add_argument("--out", default="segmented", metavar="DIR", help="folder for the results (default: segmented)")
    parser.add_argument(
        "--task",
        choices=("semantic", "instance", "panoptic"),
        help="of mask classifiers: a class for every pixel, objects, or everything in segments\n"
        "(default: what the model was trained for, as its file says; semantic where it does not)",
    )
    parser.add_argument(
        "--threshold", type=float, help="of segments: how sure the model must be (default: 0.5, panoptic 0.8)"
    )
    parser.add_argument(
        "--kinds",
        metavar="KIND,…",
        help="of overlay,mask,cutout,json; of segments overlay,mask,json,coco,panoptic,cutouts\n"
        "(default: all that the model has; of segments overlay,mask,json)",
    )
    parser.add_argument(
        "--engine",
        default="torch",
        choices=("torch", "compile", "onnxruntime", "openvino", "auto"),
        help="auto: the fastest that is installed and agrees, measured once and remembered",
    )
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--device", help="of PyTorch, e.g. cpu or cuda:0 (default: a GPU if there is one)")
    parser.add_argument(
        "--tile",
        default="auto",
        metavar="auto|none|PIXELS",
        help="largest side of a tile; auto: the whole picture up to 2 megapixels",
    )
    parser.add_argument(
        "--overlap", default="0.125", metavar="PIXELS|SHARE", help="of neighbouring tiles (default: 0.125)"
    )
    parser.add_argument("--flip", action="store_true", help="average with the mirrored picture")
    parser.add_argument("--scales", default="1", metavar="S,…", help="average over these sizes, e.g. 0.75,1,1.25")
    parser.add_argument("--foreground", metavar="CLASS", help="class that cut-outs keep, by name or index")
    parser.add_argument("--batch-size", type=int, default=1, help="tiles at a time")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def run(options: argparse.Namespace) -> int:
    """0: everything was done; 1: some inputs failed; 2: nothing could be done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from segmentarium.contracts import asked_task
    from segmentarium.files import shown
    from segmentarium.inference.predictor import Predictor, resolve_model
    from segmentarium.inference.segment_result import check_segment_kinds
    from segmentarium.media.sources import expand

    items = expand(list(options.source))
    kinds = None if options.kinds is None else tuple(kind.strip() for kind in options.kinds.split(","))
    model = resolve_model(options.model)
    task = asked_task(model, options.task)
    if kinds is not None:
        from segmentarium.inference.result import check_kinds

        (check_kinds if task == "semantic" else check_segment_kinds)(kinds)
    predictor: Any = (
        _segment_predictor(options, model, task)
        if task != "semantic"
        else Predictor(
            model,
            engine=options.engine,
            precision=options.precision,
            device=options.device,
            tile=_tile(options.tile),
            overlap=_number(options.overlap, "--overlap"),
            flip=options.flip,
            scales=[float(_number(part, "--scales")) for part in options.scales.split(",")],
            foreground=options.foreground,
            batch_size=options.batch_size,
        )
    )
    predictor.model_name = options.model
    if kinds is None:
        kinds = ("overlay", "mask", *(("cutout",) if predictor.foreground is not None else ()), "json")
    elif "cutout" in kinds and predictor.foreground is None:
        from segmentarium.matting.finder import no_foreground

        raise ValueError(no_foreground(predictor.classes))
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    failed = damaged = 0
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        job = _Job(predictor, options.out, kinds, options.overwrite, bar, bar.add_task("segmenting", total=len(items)))
        for item in items:
            try:
                job.do(item)
            except (ValueError, OSError, ImportError, MemoryError) as error:
                if options.debug:
                    raise
                failed += not isinstance(error, DamagedError)
                damaged += isinstance(error, DamagedError)
                message = str(error) or type(error).__name__
                named = item.origin in message or shown(item.origin) in message
                print(
                    f"segmentarium segment: {shown(message if named else f'{item.origin}: {message}')}", file=sys.stderr
                )
            bar.advance(job.task)
    done = len(items) - failed
    if done:
        print(f"{done} of {len(items)} done with {predictor.model_name} on {predictor.engine}; see {options.out}")
    else:
        print(f"segmentarium segment: none of {len(items)} inputs could be done", file=sys.stderr)
    return 0 if not failed + damaged else 1 if done else 2


class _Job:
    """One input after the other, each in the way that fits it."""

    def __init__(
        self, predictor: Any, folder: str, kinds: tuple[str, ...], overwrite: bool, bar: Any, task: Any
    ) -> None:
        self.task = task
        self._predictor, self._folder, self._kinds = predictor, folder, kinds
        self._overwrite, self._bar = overwrite, bar
        self._semantic = not hasattr(predictor, "things")

    def do(self, item: Any) -> None:
        from segmentarium.inference.result import check_files

        if item.kind != "picture":
            self._video(item)
        elif item.path is not None and self._is_large(item.path):
            self._large(item)
        else:
            if self._semantic:  # of segments, what the files are called is known when they are found
                check_files(self._folder, item.name, self._kinds, item.path, overwrite=self._overwrite)
            result = self._predictor(item.load(), name=item.name, path=item.path)
            result.save(self._folder, self._kinds, overwrite=self._overwrite)

    @staticmethod
    def _is_large(path: Any) -> bool:
        from segmentarium.media.readers import LARGE, picture_size

        width, height = picture_size(path)
        return width * height > LARGE

    def _large(self, item: Any) -> None:
        from segmentarium.inference.large import segment_file
        from segmentarium.inference.large_segments import segment_large_file
        from segmentarium.media.readers import LargePicture

        if not LargePicture(item.path).reads_in_rows:
            print(
                f"{item.origin} is decoded whole, at 4 bytes a pixel, before it is segmented in tiles "
                "(pip install 'segmentarium[large]' reads the usual kinds of files in rows)",
                file=sys.stderr,
            )
        part = self._bar.add_task(item.name, total=100)
        try:
            (segment_file if self._semantic else segment_large_file)(
                self._predictor,
                item.path,
                self._folder,
                self._kinds,
                name=item.name,
                overwrite=self._overwrite,
                progress=lambda share: self._bar.update(part, completed=round(100 * share)),
            )
        finally:
            self._bar.remove_task(part)

    def _video(self, item: Any) -> None:
        from segmentarium.inference.video import segment_video

        part = self._bar.add_task(item.name, total=None)
        if item.kind == "webcam":
            print("recording; Ctrl-C ends it", file=sys.stderr)
        try:
            result = segment_video(
                self._predictor,
                item,
                self._folder,
                self._kinds,
                overwrite=self._overwrite,
                progress=lambda done, total: self._bar.update(part, completed=done, total=total),
            )
        finally:
            self._bar.remove_task(part)
        if result.damage is not None:
            raise DamagedError(f"{result.damage}; what came before it is done")


class DamagedError(ValueError):
    """An input that was done up to where it is damaged."""


def _segment_predictor(options: argparse.Namespace, model: Any, task: str) -> Any:
    from segmentarium.inference.segments import SegmentPredictor

    given = [f"--{name}" for name in ("flip", "foreground") if getattr(options, name)]
    given += ["--scales"] if options.scales != "1" else []
    if given:
        raise ValueError(
            f"{', '.join(given)} is for --task semantic, and this is {task}; leave it out, or ask for that task"
        )
    return SegmentPredictor(
        model,
        task=task,
        threshold=options.threshold,
        engine=options.engine,
        precision=options.precision,
        device=options.device,
        tile=_tile(options.tile),
        overlap=_number(options.overlap, "--overlap"),
    )


def _tile(text: str) -> Tile:
    if text in ("auto", "none"):
        return None if text == "none" else "auto"
    if not text.isdigit():
        raise ValueError(f"--tile is {text!r}; give a number of pixels, auto or none")
    return int(text)


def _number(text: str, option: str) -> int | float:
    """Pixels where it is a whole number, else a share."""
    try:
        return int(text) if text.strip().isdigit() else float(text)
    except ValueError:
        raise ValueError(f"{option} is {text!r}; give a number") from None
