"""Videos and the webcam: decoding, the network, and drawing with encoding each in its own thread."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from segmentarium.brief import Brief
from segmentarium.files import atomic_write, check_targets, write_json
from segmentarium.inference.result import OF_FRAMES, Result, check_kinds, description
from segmentarium.matting.finder import no_foreground
from segmentarium.matting.frames import frame_of, layout_of, pixels_of
from segmentarium.matting.reader import Camera, Reader, first_frame, is_packet
from segmentarium.matting.writers import FileWriter, Form
from segmentarium.media.sources import DamagedError, Item, VideoError
from segmentarium.media.stages import Consumer, Prefetcher

if TYPE_CHECKING:
    from segmentarium.inference.predictor import Predictor
    from segmentarium.inference.segments import SegmentPredictor

_H264 = {"crf": "20", "preset": "veryfast", "movflags": "+faststart"}
_VP9 = {"deadline": "realtime", "cpu-used": "8", "crf": "24"}
# kind -> (suffix, what is written, what its frames are drawn as)
FORMATS: dict[str, tuple[str, Form, str]] = {
    "overlay": ("_overlay.mp4", Form("mp4", ("libx264", "mpeg4"), "yuv420p", _H264, "aac"), "rgb24"),
    "mask": ("_mask.mkv", Form("matroska", ("ffv1",), "gray", {}, ""), "gray"),  # class indices, without loss
    "cutout": ("_cutout.webm", Form("webm", ("libvpx-vp9",), "yuva420p", _VP9, "libopus"), "rgba"),
}


@dataclass(frozen=True)
class Frame:
    """pixels (H, W, 3) uint8 as they are to be shown, of a frame that is partly transparent (H, W, 4), seconds since the clip
    began, and the same in its own unit of time."""

    seconds: float
    pixels: np.ndarray
    ticks: int


class OpenClip:
    """A clip that is being read: `frames` gives `Frame`s, between them packets of sound where the reader was asked for it.

    reader  of `segmentarium.matting.reader`; its `damage` says after the last frame what is wrong with the end
    layout  of the first frame: size, colours, aspect
    """

    def __init__(self, reader: Reader | Camera) -> None:
        self.reader = reader
        frame, self._items = first_frame(reader)
        self.layout = layout_of(frame, reader.aspect)

    @property
    def frames(self) -> Iterator[Any]:
        from av.video.reformatter import VideoReformatter

        convert = VideoReformatter()
        for item in self._items:
            if is_packet(item):
                yield item
                continue
            pixels = pixels_of(item, self.layout, convert)
            yield Frame(float(item.pts * self.reader.time_base), pixels, item.pts)


@dataclass(repr=False)
class VideoResult(Brief):
    """What `segment_video` wrote; areas: class name -> mean share of the frames; damage: what is wrong with the clip's end."""

    files: list[Path]
    frames: int
    areas: dict[str, float]
    facts: dict[str, Any]
    damage: str | None = None


@contextlib.contextmanager
def open_clip(item: Item, *, with_sound: bool = False) -> Iterator[OpenClip]:
    """A video file or a webcam.  VideoError, ImportError."""
    with (
        Camera(item.camera)
        if item.kind == "webcam"
        else Reader(str(item.path), item.origin, with_sound=with_sound) as reader
    ):
        yield OpenClip(reader)


@contextlib.contextmanager
def open_frames(item: Item) -> Iterator[Iterator[np.ndarray]]:
    """The pixels of the frames alone; DamagedError after the last of a clip whose end is damaged or cut off."""
    with open_clip(item) as clip:
        yield _pixels(clip)


def _pixels(clip: OpenClip) -> Iterator[np.ndarray]:
    yield from (frame.pixels for frame in clip.frames)
    if clip.reader.damage is not None:
        raise DamagedError(clip.reader.damage)


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

    Frames keep their times, colours and the aspect of their pixels, overlays the sound, and segments that are told apart their
    numbers.  Files appear under their names when they are complete; a webcam is recorded until Ctrl-C.  A damaged end of the
    clip ends the files there, too, and is told in the result.
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
        clip = stack.enter_context(open_clip(item, with_sound="overlay" in kinds))
        writer = stack.enter_context(_Writer(paths, clip))
        ahead = stack.enter_context(Prefetcher(clip.frames))
        behind = stack.enter_context(Consumer(writer.write))
        done = 0
        tracker = SegmentTracker(predictor.things) if isinstance(predictor, SegmentPredictor) else None
        try:
            for frame in ahead:
                if is_packet(frame):
                    behind.put(frame)
                    continue
                result = predictor(frame.pixels)
                if tracker is not None and isinstance(result, SegmentResult):
                    result.segments = tracker.update(result.segments)
                behind.put((frame.ticks, result))
                done += 1
                if progress:
                    progress(done, clip.reader.frames)
        except KeyboardInterrupt:
            if item.kind != "webcam":
                raise
        behind.finish()
        seconds = time.perf_counter() - started
        facts = predictor.facts(seconds) | {"frames": done, "frames_per_second": round(done / seconds, 2)}
        if damage := clip.reader.damage:
            facts["damage"] = damage
        files, areas = writer.complete(item, predictor, facts)
    return VideoResult(files, done, areas, facts, damage)


class _Writer:
    """The output videos of one input."""

    def __init__(self, paths: Mapping[str, Path], clip: OpenClip) -> None:
        self._paths, self._clip = paths, clip  # kind -> file
        self._stack = contextlib.ExitStack()
        self._outputs: dict[str, FileWriter] = {}
        self._waiting: list[Any] = []  # packets of sound before the first frame
        self._sums: np.ndarray | None = None
        self._frames = 0
        self._size = (0, 0)

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._stack.__exit__(kind, error, trace)

    def _start(self, result: Result) -> None:
        from av.video.reformatter import VideoReformatter

        height, width = result.mask.shape
        self._size = (width, height)
        self._sums = np.zeros(len(result.classes))
        self._convert = VideoReformatter()
        for kind, final in self._paths.items():
            if kind not in FORMATS:
                continue
            form = FORMATS[kind][1]
            # chroma of half the resolution needs even sides
            layout = (
                self._clip.layout if form.pixels != "gray" else replace(self._clip.layout, width=width, height=height)
            )
            part = self._stack.enter_context(atomic_write(final))
            writer = FileWriter(part, form, self._clip.reader, layout, name=final, with_sound=kind == "overlay")
            self._stack.callback(writer.abandon)
            self._outputs[kind] = writer
        for packet in self._waiting:
            self._outputs["overlay"].sound(packet)

    def write(self, item: Any) -> None:
        """Draws and encodes one frame, (ticks, result), or copies a packet of sound."""
        if is_packet(item):
            if self._sums is None:
                self._waiting.append(item)
            else:
                self._outputs["overlay"].sound(item)
            return
        ticks, result = item
        if self._sums is None:
            self._start(result)
        if result.mask.shape[::-1] != self._size:
            raise VideoError(
                f"the picture changes its size from {self._size} to {result.mask.shape[::-1]} in mid-video"
            )
        assert self._sums is not None
        self._sums += list(result.areas.values())
        self._frames += 1
        for kind, writer in self._outputs.items():
            frame = self._encodable(kind, result)
            frame.pts, frame.time_base = ticks, self._clip.reader.time_base
            writer.frame(frame)

    def _encodable(self, kind: str, result: Result) -> Any:
        pixels = result.mask if kind == "mask" else np.asarray(result.overlay if kind == "overlay" else result.cutout)
        _, form, drawn = FORMATS[kind]
        if form.pixels != "gray":
            height, width = self._clip.layout.height, self._clip.layout.width
            pixels = pixels[:height, :width]
            missing = [(0, height - pixels.shape[0]), (0, width - pixels.shape[1]), (0, 0)]
            pixels = np.pad(pixels, missing[: pixels.ndim], mode="edge")  # pictures one pixel wide
        return frame_of(pixels, drawn, form.pixels, self._clip.layout, self._convert)

    def complete(
        self, item: Item, predictor: Predictor | SegmentPredictor, facts: dict[str, Any]
    ) -> tuple[list[Path], dict[str, float]]:
        """Finishes the files, writes the JSON, and gives them their names."""
        if self._sums is None:
            raise VideoError(f"{item.origin} gave no frame")
        for writer in self._outputs.values():
            writer.finish()
        self._stack.close()
        areas = {name: float(s / self._frames) for name, s in zip(predictor.classes, self._sums, strict=True)}
        if "json" in self._paths:
            content = description(item.name, item.path, self._size, predictor.classes, predictor.palette, areas, facts)
            write_json(self._paths["json"], content)
        return list(self._paths.values()), areas
