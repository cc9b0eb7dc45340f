"""`segmentarium segment`: masks, overlays and cut-outs of pictures, folders, videos or the webcam."""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segmentarium.cli.engines import add_computing
from segmentarium.cli.inputs import Inputs, add_watch, check_watch, watched
from segmentarium.memory import memory_errors
from segmentarium.wording import problem, said

if TYPE_CHECKING:
    from segmentarium.inference.predictor import Tile


OUT = "segmented"
EXAMPLES = (
    ("segmentarium segment photo.jpg", "overlay, mask, cut-out and JSON into segmented/"),
    ("segmentarium segment photos/ --model street --kinds mask --out masks", ""),
    ("segmentarium segment - --out - < photo.jpg > cutout.png", "as a filter"),
    ("segmentarium segment inbox/ --model runs/mine --watch", "what comes into a folder"),
    ("segmentarium segment photos/ --model net.onnx --kinds coco,yolo", "an exported network, for labelling tools"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        nargs="+",
        help="picture, video, folder, glob, http(s) address, number of a webcam, or - (the picture on standard input)",
    )
    parser.add_argument(
        "--model",
        default="person",
        help="a name (person, street), a weights file, the folder of a training, an exported .onnx or .xml, or\n"
        "hf:OWNER/NAME (default: person)",
    )
    parser.add_argument(
        "--out",
        metavar="DIR|-",
        help="folder for the results, or - (one picture's one kind, to standard output) (default: segmented; of source -: -)",
    )
    add_watch(parser)
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
        help="of overlay,mask,cutout,json,coco,yolo,labelme; of segments overlay,mask,json,coco,yolo,labelme,\n"
        "panoptic,cutouts (default: overlay,mask,json, and cutout where the model has a foreground; to standard\n"
        "output the cutout, else the mask)",
    )
    add_computing(parser)
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
    parser.add_argument("--batch-size", type=int, default=1, help="of semantic masks: tiles at a time")


def run(options: argparse.Namespace) -> int:
    """0: everything was done; 1: some inputs failed; 2: nothing could be done."""
    from segmentarium.cli.progress import bars
    from segmentarium.contracts import asked_task
    from segmentarium.inference.predictor import Predictor, resolve_model
    from segmentarium.inference.segment_result import check_segment_kinds
    from segmentarium.media.sources import DamagedError, expand

    out = options.out or ("-" if options.source == ["-"] else OUT)
    items = expand(list(options.source)) if not options.watch else []
    if options.watch:
        check_watch(options, out)
    if out == "-" and (len(items) != 1 or items[0].kind != "picture"):
        raise ValueError("--out - is for one picture; give a folder for the results of several, or of a video")
    kinds = None if options.kinds is None else tuple(kind.strip() for kind in options.kinds.split(","))
    model = resolve_model(options.model)
    task = asked_task(model, options.task)
    if task == "semantic" and options.threshold is not None:
        raise ValueError(
            "--threshold is of segments, and this is semantic: each pixel has its likeliest class; leave it out"
        )
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
            tile=tile_of(options.tile),
            overlap=_number(options.overlap, "--overlap"),
            flip=options.flip,
            scales=[float(_number(part, "--scales")) for part in options.scales.split(",")],
            foreground=options.foreground,
            batch_size=options.batch_size,
        )
    )
    predictor.model_name = options.model
    if kinds is None:
        kinds = _usual(predictor, out)
    elif "cutout" in kinds and predictor.foreground is None:
        from segmentarium.matting.finder import no_foreground

        raise ValueError(no_foreground(predictor.classes))
    if out == "-":
        return _to_stdout(predictor, items[0], kinds)
    listed = Inputs(out, "segment", overwrite=options.overwrite) if options.watch or len(items) > 1 else None
    failed, done, troubled = 0, 0, False
    try:
        with bars() as bar:
            total = None if options.watch else len(items)
            job = _Job(predictor, out, kinds, options.overwrite, bar, bar.add_task("segmenting", total=total))
            with contextlib.suppress(*((KeyboardInterrupt,) if options.watch else ())):
                for item in watched(options, out, listed) if options.watch and listed is not None else items:
                    try:
                        files = job.do(item)
                        done += 1
                        if listed is not None:
                            listed.done(item.origin, files)
                    except (ValueError, OSError, ImportError, MemoryError) as error:
                        if options.debug:
                            raise
                        troubled = True
                        if isinstance(error, DamagedError):
                            done += 1
                        else:
                            failed += 1
                        print(f"segmentarium segment: {problem(item.origin, error)}", file=sys.stderr)
                        if listed is not None:
                            listed.failed(item.origin, said(error))
                    bar.advance(job.task)
    finally:  # also where Ctrl-C ends it
        if listed is not None and done:
            listed.write()
    if done or options.watch:
        print(f"{done} of {done + failed} done with {predictor.model_name} on {predictor.engine}; see {out}")
    else:
        print(f"segmentarium segment: none of {len(items)} inputs could be done", file=sys.stderr)
    return 0 if not troubled else 1 if done else 2


def _usual(predictor: Any, out: str) -> tuple[str, ...]:
    """The kinds of output where nobody says."""
    cutout = predictor.foreground is not None
    if out == "-":
        return ("cutout" if cutout else "mask",)
    return ("overlay", "mask", *(("cutout",) if cutout else ()), "json")


def _to_stdout(predictor: Any, item: Any, kinds: tuple[str, ...]) -> int:
    """The one file of one picture, to standard output, and nothing else."""
    if len(kinds) != 1 or kinds[0] in ("panoptic", "cutouts"):
        raise ValueError(
            f"--out - gives one file, and --kinds are {', '.join(kinds)}; give one of overlay, mask, json, …"
        )
    content = predictor(item.load(predictor.preprocessing.bits), name=item.name, path=item.path).encoded(kinds[0])
    sys.stdout.buffer.write(content)
    sys.stdout.buffer.flush()
    return 0


class _Job:
    """One input after the other, each in the way that fits it."""

    def __init__(
        self, predictor: Any, folder: str, kinds: tuple[str, ...], overwrite: bool, bar: Any, task: Any
    ) -> None:
        self.task = task
        self._predictor, self._folder, self._kinds = predictor, folder, kinds
        self._overwrite, self._bar = overwrite, bar
        self._semantic = not hasattr(predictor, "things")

    @memory_errors()
    def do(self, item: Any) -> list[Path]:
        """The files that it became."""
        from segmentarium.inference.result import check_files

        if item.kind != "picture":
            return self._video(item)
        if item.path is not None and self._is_large(item.path):
            return self._large(item)
        if self._semantic:  # of segments, what the files are called is known when they are found
            check_files(self._folder, item.name, self._kinds, item.path, overwrite=self._overwrite)
        pixels = item.load(self._predictor.preprocessing.bits)
        result = self._predictor(pixels, name=item.name, path=item.path)
        return result.save(self._folder, self._kinds, overwrite=self._overwrite)

    @staticmethod
    def _is_large(path: Any) -> bool:
        from segmentarium.data.bands import picture_size
        from segmentarium.media.readers import LARGE

        width, height = picture_size(path)
        return width * height > LARGE

    def _large(self, item: Any) -> list[Path]:
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
            return (segment_file if self._semantic else segment_large_file)(
                self._predictor,
                item.path,
                self._folder,
                self._kinds,
                name=item.name,
                overwrite=self._overwrite,
                progress=lambda share: self._bar.update(part, completed=round(100 * share)),
            ).files
        finally:
            self._bar.remove_task(part)

    def _video(self, item: Any) -> list[Path]:
        from segmentarium.inference.video import segment_video
        from segmentarium.media.sources import DamagedError

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
            raise DamagedError(result.damage)
        return result.files


def _segment_predictor(options: argparse.Namespace, model: Any, task: str) -> Any:
    from segmentarium.inference.segments import SegmentPredictor

    given = [f"--{name}" for name in ("flip", "foreground") if getattr(options, name)]
    given += ["--scales"] if options.scales != "1" else []
    given += ["--batch-size"] if options.batch_size != 1 else []
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
        tile=tile_of(options.tile),
        overlap=_number(options.overlap, "--overlap"),
    )


def tile_of(text: str) -> Tile:
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
