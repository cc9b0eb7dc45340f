"""`segmentarium portrait`: the person of photos, clips or the webcam in front of another background."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

from segmentarium.cli.engines import add_engine
from segmentarium.cli.inputs import Inputs, add_watch, check_watch, watched
from segmentarium.files import shown
from segmentarium.memory import memory_errors
from segmentarium.wording import problem, said

OUT = "portraits"
ENGINE = (
    "auto: the fastest that is installed and agrees, measured once (default: of person and .onnx files\n"
    "ONNX Runtime, without PyTorch; else auto for clips and torch for photos)"
)
EXAMPLES = (
    ("segmentarium portrait photo.jpg --background transparent --out cutout.png", ""),
    ("segmentarium portrait call.mp4", "blurred behind, into portraits/"),
    ("segmentarium portrait inbox/ --background white --watch", "what comes into a folder"),
    ("segmentarium portrait 0 --background beach.jpg --to window", "the webcam"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        nargs="+",
        help="photo, video, animated GIF, folder, glob, http(s) address, number of a webcam, or - (standard input)",
    )
    parser.add_argument(
        "--background",
        default="blur",
        metavar="blur|transparent|COLOUR|IMAGE|VIDEO",
        help="blur, blur:STRENGTH (per cent of the longer side, default 2), transparent, a colour (green, #20c040),\n"
        "or a file: an image, or a video for clips, repeated (default: blur)",
    )
    parser.add_argument(
        "--out",
        metavar="DIR|FILE|-",
        help=f"folder, or for one source a file, or - (standard output) (default: {OUT}; of source -: -)",
    )
    add_watch(parser)
    parser.add_argument(
        "--model",
        default="person",
        help="a name, a weights file, an exported .onnx, or hf:OWNER/NAME (default: person)",
    )
    parser.add_argument(
        "--quality",
        default="standard",
        choices=("standard", "high"),
        help="high: photos by a larger network, person_large, in place of person (default: standard)",
    )
    add_engine(parser, default=None, told=ENGINE)
    parser.add_argument("--foreground", metavar="CLASS", help="class that stays, of a model with several")
    parser.add_argument(
        "--people",
        default="all",
        metavar="all|largest|N",
        help="of photos: who stays where there are several people, or so many of the largest (default: all)",
    )
    parser.add_argument(
        "--hold",
        choices=("keep", "drop"),
        help="of photos: what people seem to hold stays, or goes (default: as the network says)",
    )
    parser.add_argument(
        "--alpha-format",
        default="webm",
        choices=("webm", "prores", "png"),
        help="of transparent clips: VP9 in WebM, ProRes 4444, or a folder of PNG (default: webm)",
    )
    parser.add_argument(
        "--to",
        choices=("files", "window", "camera"),
        help="of a webcam: record, show, or feed a virtual camera (default: window)",
    )


def run(options: argparse.Namespace) -> int:
    """0: everything was done; 1: some inputs failed or were damaged; 2: nothing could be done; 130: interrupted."""
    if options.watch:
        check_watch(options, options.out or OUT)
    if "-" in options.source:
        if options.source != ["-"]:
            raise ValueError("- is the standard input: give it as the only source")
        return _pipe(options)
    from segmentarium.media.sources import expand

    target = Path(options.out or OUT)
    items = [] if options.watch else [_animated(item) for item in expand(list(options.source))]
    clips = options.watch or any(item.kind != "picture" for item in items)
    to_stdout = options.out == "-"
    as_file = not options.watch and (to_stdout or bool(target.suffix and not target.is_dir()))
    if as_file and len(items) > 1:
        raise ValueError(f"--out {options.out} is one file and there are {len(items)} sources; give a folder")
    if options.to in ("window", "camera") and any(item.kind != "webcam" for item in items):
        raise ValueError(f"--to {options.to} is for a webcam; files become files")
    portrait = _portrait(options, clips)
    failed = done = seen = 0
    listed = Inputs(target, "portrait", overwrite=options.overwrite) if options.watch or len(items) > 1 else None
    with _Stop() as stop, _bar() as bar:
        total = None if options.watch else len(items)
        all_of_them = bar.add_task("portraits", total=total, visible=len(items) != 1)
        coming = items
        if options.watch and listed is not None:
            coming = map(_animated, watched(options, target, listed, stop))
        for item in coming:
            seen += 1
            try:
                where = (
                    sys.stdout.buffer if to_stdout else target if as_file else _name(portrait, item, target, options)
                )
                message = _one(portrait, item, where, options, bar, stop)
                done += 1
                if listed is not None:
                    listed.done(item.origin, [str(where)])
                if message:
                    failed += 1
                    _tell(message)
            except (ValueError, OSError, ImportError, MemoryError) as error:
                if options.debug:
                    raise
                failed += 1
                _tell(problem(item.origin, error))
                if listed is not None:
                    listed.failed(item.origin, said(error))
            bar.advance(all_of_them)
            if listed is not None and done and not options.watch and (stop() or item is items[-1]):
                listed.write()
            if stop() and not options.watch:
                _tell("interrupted; what was done until then is complete")
                return 130
    if not done and not options.watch:
        _tell(f"none of {seen} inputs could be done")
        return 2
    _note(f"{done} of {seen} done with {portrait.predictor.model_name}; see {'-' if to_stdout else target}")
    return 1 if failed else 0


def _portrait(options: argparse.Namespace, clips: bool) -> Any:
    from segmentarium.cli.memory import import_torch
    from segmentarium.cli.progress import waiting
    from segmentarium.matting.exported import exported_file
    from segmentarium.matting.portrait import Portrait

    given: dict[str, Any] = {"foreground": options.foreground}
    if options.engine or exported_file(options.model) is None:
        with waiting("loading PyTorch"):
            import_torch()
        given["engine"] = options.engine or ("auto" if clips else "torch")
    people = int(options.people) if options.people.isdigit() else options.people
    return Portrait(
        options.background, options.model, quality=options.quality, people=people, hold=options.hold, **given
    )


def _animated(item: Any) -> Any:
    """An animated GIF or PNG is a clip."""
    import dataclasses

    from segmentarium.data.finding import head_of
    from segmentarium.data.image_io import ImageReadError, peek

    if item.kind != "picture" or item.path is None or not head_of(item.path).startswith((b"GIF8", b"\x89PNG")):
        return item
    try:
        with peek(item.path) as image:
            animated = getattr(image, "is_animated", False)
    except ImageReadError:  # the reader says what is wrong with it
        return item
    return dataclasses.replace(item, kind="video", load=None) if animated else item


def _name(portrait: Any, item: Any, folder: Path, options: argparse.Namespace) -> Path:
    if item.kind == "picture":
        from segmentarium.data.bands import picture_size
        from segmentarium.media.readers import LARGE

        jpeg = False
        if item.path is not None and item.path.suffix.lower() in (".jpg", ".jpeg") and not portrait.transparent:
            width, height = picture_size(item.path)
            jpeg = width * height <= LARGE  # larger ones are written in rows, as PNG
        return folder / f"{item.name}{'.jpg' if jpeg else '.png'}"
    from segmentarium.matting.clip import clip_suffix

    return folder / f"{item.name}{clip_suffix(transparent=portrait.transparent, alpha_format=options.alpha_format)}"


@memory_errors()
def _one(portrait: Any, item: Any, where: Any, options: argparse.Namespace, bar: Any, stop: Any) -> str | None:
    """Does one input; what to tell about it, if something was wrong."""
    from segmentarium.matting.portrait import is_nobody

    if item.kind == "picture":
        if item.path is not None and isinstance(where, Path):
            share = portrait.file(item.path, where, overwrite=options.overwrite)
        else:
            result = portrait(item.load_with_alpha(), name=item.name)
            share = result.share
            _write(result, where, options)
        if is_nobody(share):
            _note(f"{item.origin}: nobody found; all of it is background")
        return None
    part = bar.add_task(item.name, total=None)

    def progress(count: int, total: int | None) -> None:
        bar.update(part, completed=count, total=total)

    try:
        if item.kind == "webcam" and options.to != "files":
            from segmentarium.matting.clip import live

            result = live(portrait.for_clips(), item.camera, options.to or "window", progress=progress, stop=stop)
        else:
            source = item.camera if item.kind == "webcam" else item.path
            given = {"alpha_format": options.alpha_format, "overwrite": options.overwrite}
            result = portrait.clip(source, where, **given, progress=progress, stop=stop)
    finally:
        bar.remove_task(part)
    _note(f"{item.origin}: {result.frames} frames, {result.frames_per_second:.1f} a second")
    if is_nobody(result.share):
        _note(f"{item.origin}: nobody found; all of it is background")
    return f"{result.damage}; what came before it is done" if result.damage else None


def _write(result: Any, where: Any, options: argparse.Namespace) -> None:
    if isinstance(where, Path):
        result.save(where, overwrite=options.overwrite)
        return
    from segmentarium.matting.picture_files import write_picture

    write_picture(result.pixels, where, ".png")
    where.flush()


def _pipe(options: argparse.Namespace) -> int:
    """Standard input, a picture or a clip by its first bytes, to standard output or a file."""
    import io

    from segmentarium.data.finding import is_picture
    from segmentarium.matting.portrait import is_nobody

    head = sys.stdin.buffer.peek(64)[:64]  # type: ignore[union-attr] - a BufferedReader
    picture = is_picture(head) and not head.startswith(b"GIF8")  # which is a clip, moving or not
    out: Any = sys.stdout.buffer if options.out in (None, "-") else Path(options.out)
    portrait = _portrait(options, clips=not picture)
    if picture:
        from segmentarium.data.image_io import load_with_alpha

        made = portrait(load_with_alpha(io.BytesIO(sys.stdin.buffer.read())))
        _write(made, out, options)
        if made.nobody:
            _note("nobody found; all of it is background")
        return 0
    if not head:
        raise ValueError("standard input is empty; expected a picture or a clip (e.g. y4m)")
    with _Stop() as stop:
        try:
            given = {"alpha_format": options.alpha_format, "overwrite": options.overwrite}
            result = portrait.clip(sys.stdin.buffer, out, **given, stop=stop)
        except BrokenPipeError:  # the reader of standard output has had enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
    _note(f"{result.frames} frames, {result.frames_per_second:.1f} a second")
    if is_nobody(result.share):
        _note("nobody found; all of it is background")
    if result.damage:
        _tell(f"{result.damage}; what came before it is done")
    return 130 if result.interrupted else 1 if result.damage else 0


class _Stop:
    """True once Ctrl-C or SIGTERM came: the clip at hand is completed.  The second Ctrl-C interrupts at once."""

    def __init__(self) -> None:
        self._asked = False
        self._before: dict[int, Any] = {}

    def __call__(self) -> bool:
        return self._asked

    def _ask(self, *_: object) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True

    def __enter__(self) -> _Stop:
        for name in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(ValueError):  # only the main thread may
                self._before[name] = signal.signal(name, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for name, handler in self._before.items():
            signal.signal(name, handler)


def _bar() -> Any:
    from segmentarium.cli.progress import bars

    def speed() -> Any:
        from rich.progress import ProgressColumn

        class Speed(ProgressColumn):
            def render(self, task: Any) -> str:
                return f"{task.speed:.1f} frames/s" if task.speed else ""

        return Speed()

    return bars(speed)


def _tell(message: str) -> None:
    print(f"segmentarium portrait: {shown(message)}", file=sys.stderr)


def _note(message: str) -> None:
    print(shown(message), file=sys.stderr)
