"""Videos and the webcam: decoding, the network, and drawing with encoding each in its own thread."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from segmentarium.brief import Brief
from segmentarium.files import atomic_write, check_targets
from segmentarium.inference.result import OF_FRAMES, Result, check_kinds, description
from segmentarium.matting.finder import no_foreground
from segmentarium.media.sources import Item, VideoError
from segmentarium.media.stages import Consumer, Prefetcher

if TYPE_CHECKING:
    from segmentarium.inference.predictor import Predictor
    from segmentarium.inference.segments import SegmentPredictor

CLOCK = 90_000  # ticks a second: the common multiple of the usual frame rates

# kind -> (suffix, container, codecs in order of preference, pixel format, options of the first codec)
FORMATS: dict[str, tuple[str, str, tuple[str, ...], str, dict[str, str]]] = {
    "overlay": ("_overlay.mp4", "mp4", ("libx264", "mpeg4"), "yuv420p", {"crf": "20", "preset": "veryfast"}),
    "mask": ("_mask.mkv", "matroska", ("ffv1",), "gray", {}),  # class indices, without loss
    "cutout": (
        "_cutout.webm",
        "webm",
        ("libvpx-vp9",),
        "yuva420p",
        {"deadline": "realtime", "cpu-used": "8", "crf": "24"},
    ),
}


@dataclass(frozen=True)
class Frame:
    seconds: float  # since the first frame
    pixels: np.ndarray  # (H, W, 3) uint8


@dataclass(repr=False)
class VideoResult(Brief):
    """What `segment_video` wrote; areas: class name -> mean share of the frames."""

    files: list[Path]
    frames: int
    areas: dict[str, float]
    facts: dict[str, Any]


@contextlib.contextmanager
def open_clip(item: Item) -> Iterator[tuple[int | None, float, Iterator[Frame]]]:
    """(number of frames, None: unknown; frames a second; the frames) of a video file or a webcam.  VideoError, ImportError."""
    if item.kind == "webcam":
        with _webcam(item.camera) as opened:
            yield opened
        return
    try:
        import av
        from av.error import FFmpegError
    except ImportError:
        raise ImportError("videos need PyAV, which is not installed: pip install 'segmentarium[video]'") from None
    try:
        container = av.open(str(item.path))
    except (FFmpegError, OSError, ValueError) as error:
        raise VideoError(f"{item.path} cannot be read as a video: {error}") from error
    with container:
        if not container.streams.video:
            raise VideoError(f"{item.path} has no video in it")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        rate = float(stream.average_rate or 25)
        yield stream.frames or None, rate, _decoded(container, stream, rate, item.path)


def _decoded(container: Any, stream: Any, rate: float, path: Path | None) -> Iterator[Frame]:
    from av.error import FFmpegError

    first = 0.0
    number = 0
    try:
        for frame in container.decode(stream):
            seconds = float(number / rate if frame.time is None else frame.time)
            first = first if number else seconds
            pixels = np.rot90(frame.to_ndarray(format="rgb24"), k=round(getattr(frame, "rotation", 0) / 90))
            yield Frame(seconds - first, np.ascontiguousarray(pixels))
            number += 1
    except FFmpegError as error:
        raise VideoError(f"{path} is damaged after {number} frames: {error}") from error
    if not number:
        raise VideoError(f"{path} has no frame that can be decoded")


@contextlib.contextmanager
def _webcam(number: int) -> Iterator[tuple[None, float, Iterator[Frame]]]:
    import cv2

    camera = cv2.VideoCapture(number)

    def frames() -> Iterator[Frame]:
        started = time.perf_counter()
        while True:
            good, pixels = camera.read()
            if not good:
                return
            yield Frame(time.perf_counter() - started, np.ascontiguousarray(pixels[..., ::-1]))

    try:
        if not camera.isOpened():
            raise VideoError(
                f"webcam {number} cannot be opened: there is none of that number, or another program has it"
            )
        yield None, camera.get(cv2.CAP_PROP_FPS) or 25.0, frames()
    finally:
        camera.release()


@contextlib.contextmanager
def open_frames(item: Item) -> Iterator[Iterator[np.ndarray]]:
    """The frames (H, W, 3) uint8 alone."""
    with open_clip(item) as (_, _, frames):
        yield (frame.pixels for frame in frames)


def segment_video(
    predictor: Predictor | SegmentPredictor,
    item: Item,
    folder: str | Path,
    kinds: Sequence[str] = ("overlay", "json"),
    *,
    overwrite: bool = False,
    progress: Callable[[int, int | None], None] | None = None,
) -> VideoResult:
    """NAME_overlay.mp4, NAME_mask.mkv (class indices, lossless), NAME_cutout.webm (VP9 with alpha), NAME.json of a video.

    overwrite  files that are there are replaced; else FileExistsError is raised
    progress   called with the number of frames that are done and of all frames (None: unknown)

    Frames keep their times, and segments that are told apart their numbers.  Files appear under their names when they are
    complete; a webcam is recorded until Ctrl-C.
    """
    from segmentarium.inference.segment_result import SegmentResult
    from segmentarium.inference.segments import SegmentPredictor
    from segmentarium.inference.tracking import SegmentTracker

    check_kinds(kinds, OF_FRAMES)
    if "cutout" in kinds and predictor.foreground is None:
        raise ValueError(no_foreground(predictor.classes))
    if "mask" in kinds and len(predictor.classes) > 256:
        raise ValueError(f"{len(predictor.classes)} classes do not fit into the bytes of a mask video; 256 do")
    paths = {kind: Path(folder) / f"{item.name}{FORMATS[kind][0] if kind in FORMATS else '.json'}" for kind in kinds}
    check_targets(paths.values(), [item.path], overwrite=overwrite)
    started = time.perf_counter()
    with contextlib.ExitStack() as stack:
        count, rate, frames = stack.enter_context(open_clip(item))
        writer = stack.enter_context(_Writer(paths, rate))
        ahead = stack.enter_context(Prefetcher(frames))
        behind = stack.enter_context(Consumer(writer.write))
        done = 0
        tracker = SegmentTracker(predictor.things) if isinstance(predictor, SegmentPredictor) else None
        try:
            for frame in ahead:
                result = predictor(frame.pixels)
                if tracker is not None and isinstance(result, SegmentResult):
                    result.segments = tracker.update(result.segments)
                behind.put((frame.seconds, result))
                done += 1
                if progress:
                    progress(done, count)
        except KeyboardInterrupt:
            if item.kind != "webcam":
                raise
        behind.finish()
        seconds = time.perf_counter() - started
        facts = predictor.facts(seconds) | {"frames": done, "frames_per_second": round(done / seconds, 2)}
        files, areas = writer.complete(item, predictor, facts)
    return VideoResult(files, done, areas, facts)


class _Writer:
    """The output videos of one input."""

    def __init__(self, paths: Mapping[str, Path], rate: float) -> None:
        self._paths, self._rate = paths, rate  # kind -> file
        self._stack = contextlib.ExitStack()
        self._outputs: dict[str, tuple[Any, Any]] = {}  # kind -> container, stream
        self._sums: np.ndarray | None = None
        self._frames = 0
        self._size = (0, 0)
        self._last = -1

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._stack.__exit__(kind, error, trace)

    def _start(self, result: Result) -> None:
        import av

        height, width = result.mask.shape
        self._size = (width, height)
        self._sums = np.zeros(len(result.classes))
        for kind, final in self._paths.items():
            if kind not in FORMATS:
                continue
            _, format_name, codecs, pixels, options = FORMATS[kind]
            part = self._stack.enter_context(atomic_write(final))
            codec = next((c for c in codecs if c in av.codecs_available), codecs[-1])
            container = self._stack.enter_context(av.open(str(part), "w", format=format_name))
            rate = Fraction(self._rate).limit_denominator(1001)
            stream: Any = container.add_stream(codec, rate=rate, options=options if codec == codecs[0] else {})
            even = 2 if "420" in pixels else 1  # chroma of half the resolution needs even sides
            stream.width, stream.height = max(even, width - width % even), max(even, height - height % even)
            stream.pix_fmt = pixels
            stream.codec_context.time_base = Fraction(1, CLOCK)
            self._outputs[kind] = (container, stream)

    def write(self, timed: tuple[float, Result]) -> None:
        """Draws and encodes one frame."""
        seconds, result = timed
        if self._sums is None:
            self._start(result)
        if result.mask.shape[::-1] != self._size:
            raise VideoError(
                f"the picture changes its size from {self._size} to {result.mask.shape[::-1]} in mid-video"
            )
        assert self._sums is not None
        self._sums += list(result.areas.values())
        self._frames += 1
        tick = max(self._last + 1, round(seconds * CLOCK))
        self._last = tick
        for kind, (container, stream) in self._outputs.items():
            container.mux(stream.encode(self._encodable(kind, result, stream, tick)))

    def _encodable(self, kind: str, result: Result, stream: Any, tick: int) -> Any:
        import av

        if kind == "overlay":
            pixels, layout = np.asarray(result.overlay), "rgb24"
        elif kind == "mask":
            pixels, layout = result.mask, "gray"
        else:
            pixels, layout = np.asarray(result.cutout), "rgba"
        pixels = pixels[: stream.height, : stream.width]
        missing = [(0, stream.height - pixels.shape[0]), (0, stream.width - pixels.shape[1]), (0, 0)]
        pixels = np.pad(pixels, missing[: pixels.ndim], mode="edge")  # pictures one pixel wide
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format=layout)
        frame.pts, frame.time_base = tick, Fraction(1, CLOCK)
        return frame

    def complete(
        self, item: Item, predictor: Predictor | SegmentPredictor, facts: dict[str, Any]
    ) -> tuple[list[Path], dict[str, float]]:
        """Finishes the files, writes the JSON, and gives them their names."""
        if self._sums is None:
            raise VideoError(f"{item.origin} gave no frame")
        for container, stream in self._outputs.values():
            container.mux(stream.encode(None))
        self._stack.close()
        areas = {name: float(s / self._frames) for name, s in zip(predictor.classes, self._sums, strict=True)}
        if "json" in self._paths:
            content = description(item.name, item.path, self._size, predictor.classes, predictor.palette, areas, facts)
            with atomic_write(self._paths["json"]) as temporary:
                temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
        return list(self._paths.values()), areas
