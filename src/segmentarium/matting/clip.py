"""Clips: decoding, the network, the matte, and encoding, each in its own thread, with a few frames between them."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import cv2
import numpy as np

from segmentarium.brief import Brief
from segmentarium.files import atomic_folder, atomic_write, check_targets
from segmentarium.matting.backgrounds import Blur, Transparent
from segmentarium.matting.blending import blend_plane
from segmentarium.matting.clip_backgrounds import ClipBackground
from segmentarium.matting.cutout import still_erased
from segmentarium.matting.frames import Layout, Turn, alpha_of, layout_of, plane_array, planes_of, turn_of
from segmentarium.matting.matte import Matte, fit_matte, resized
from segmentarium.matting.reader import Camera, Reader, first_frame, is_packet
from segmentarium.matting.regions import decided
from segmentarium.matting.temporal import TemporalFilter
from segmentarium.matting.writers import (
    ALPHA,
    ALPHA_FORMATS,
    OPAQUE,
    FileWriter,
    PngFolder,
    PngPipe,
    PreviewWindow,
    VirtualCamera,
    Writer,
    Y4mPipe,
)
from segmentarium.media.stages import Consumer, Prefetcher, cores

if TYPE_CHECKING:
    from segmentarium.matting.portrait import Portrait

STAGES = (4.0, 2.0)  # of the matte: less than for pictures, the filter over time has calmed the mask already
SLIGHT = 4.0  # strength of a blur
CLEAR = 0.02  # probability of the person below which a pixel is the background's, and so is what is further away than MARGIN
MARGIN = 16  # pixels of the guide: what the passes of the matte reach
LARGEST_MASK = 512  # longer side at which a network without a size of its own sees a clip


@dataclass(repr=False)
class ClipResult(Brief):
    """What `convert_clip` did.

    path         of the file or folder; None: a pipe
    share        mean share of the frames that the person takes, 0..1
    damage       what was wrong with the end of the source, or None
    interrupted  Ctrl-C or `stop` ended it; what was done until then is complete and plays
    """

    path: Path | None
    frames: int
    seconds: float
    share: float
    damage: str | None = None
    interrupted: bool = False

    @property
    def frames_per_second(self) -> float:
        return self.frames / self.seconds if self.seconds else 0.0


@dataclass
class PendingFrame:
    """One frame on its way."""

    pts: int
    seconds: float
    planes: tuple[np.ndarray, np.ndarray, np.ndarray]
    small: Any  # the frame at the network's size, YUV 4:4:4
    turn: Turn
    own_alpha: np.ndarray | None = None
    probability: np.ndarray | None = None
    guide: np.ndarray | None = None


@dataclass(frozen=True)
class Window:
    """The part of a frame outside of which nobody is: rows and columns of the guide, and the same of the frame, even."""

    small: tuple[slice, slice]
    large: tuple[slice, slice]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in the frame"""
        rows, columns = self.large
        return rows.stop - rows.start, columns.stop - columns.start

    @property
    def halved(self) -> tuple[slice, slice]:
        """The same in the planes of colour."""
        rows, columns = (slice(axis.start // 2, axis.stop // 2) for axis in self.large)
        return rows, columns


def window_of(probability: np.ndarray, size: tuple[int, int]) -> Window | None:
    """Where the person is of a frame of `size` (H, W), both even; None: nowhere.  `probability` (h, w), 0..1, as the guide."""
    person = probability > CLEAR
    small, large = [], []
    for axis, full in enumerate(size):
        length = person.shape[axis]
        found = np.flatnonzero(person.any(1 - axis))
        if not len(found):
            return None
        # so many pixels of the guide are a whole, even number of the frame's
        unit = length // math.gcd(length, full // 2)
        start = max(0, int(found[0]) - MARGIN) // unit * unit
        stop = min(length, -(-(int(found[-1]) + 1 + MARGIN) // unit) * unit)
        small.append(slice(start, stop))
        large.append(slice(start * full // length, stop * full // length))
    return Window((small[0], small[1]), (large[0], large[1]))


class FrameWorker:
    """The person of each frame of a clip in front of the background: `segment`, then `composite`."""

    def __init__(self, portrait: Portrait, layout: Layout) -> None:
        from av.video.reformatter import VideoReformatter

        self.layout = layout
        self._to_rgb = VideoReformatter()  # kept: a frame's own reformat() starts threads for each frame
        self._portrait = portrait
        self._steady = TemporalFilter()
        self._decided: np.ndarray | None = None
        self._behind = ClipBackground(portrait.background, layout)
        self._alpha_out = isinstance(portrait.background, Transparent)
        behind = portrait.background
        # in front of its own slight blur a soft edge may keep what it has of the background
        self._own_colours = not (isinstance(behind, Blur) and behind.strength <= SLIGHT)

    def segment(self, step: PendingFrame) -> PendingFrame:
        """Adds the steady mask and the guide.  This thread has the network: what can be done elsewhere is left to `composite`."""
        planes = np.stack([step.turn.upright(plane_array(plane)) for plane in step.small.planes])
        step.guide = planes * np.float32(1 / 255)
        step.probability = self._steady(lambda: self._predict(step), planes[0], step.seconds)
        return step

    def _predict(self, step: PendingFrame) -> np.ndarray:
        rgb = self._to_rgb.reformat(step.small, format="rgb24", threads=1).to_ndarray()
        return self._portrait.predictor.probability(np.ascontiguousarray(step.turn.upright(rgb)))

    def composite(self, step: PendingFrame) -> tuple[Any, float]:
        """(the frame to encode, the person's share of it)"""
        import av

        assert step.guide is not None
        assert step.probability is not None
        width, height = self.layout.width, self.layout.height
        frame = av.VideoFrame(width, height, "yuva420p" if self._alpha_out else "yuv420p")
        outs = [plane_array(plane) for plane in frame.planes]
        found = step.probability
        before = self._decided if self._decided is not None and self._decided.shape == found.shape else None
        self._decided = decided(found, before=before)
        small = np.zeros_like(step.guide[0])
        probability = resized(self._decided, small.shape)
        window = window_of(probability, (height, width))
        person = None
        if window is not None:
            guide = step.guide[:, *window.small]
            matte = fit_matte(guide, probability[window.small], window.size, stages=STAGES, grey=True)
            small[window.small] = matte.small
            person = window, matte
        self._behind.fill(outs[:3], step.guide, small, step.seconds)
        if self._alpha_out:
            outs[3][:] = 0
        if person is not None:
            self._lay_over(outs, *person, step)
        frame.pts = step.pts
        self.layout.tag(frame)
        return frame, float(small.mean())

    def _lay_over(self, outs: Sequence[np.ndarray], window: Window, matte: Matte, step: PendingFrame) -> None:
        """The person in front of what `outs` (Y, U, V and perhaps alpha) hold already."""
        places = (window.large, window.halved, window.halved)
        alpha, person = self._cut(matte, [plane[place] for plane, place in zip(step.planes, places, strict=True)])
        top, left = (axis.start for axis in window.large)
        alpha = still_erased(alpha, step.own_alpha, top, left)
        if self._alpha_out:
            outs[3][window.large] = alpha
            share = (alpha > 0).view(np.uint8) * np.uint8(255)  # colours stay whole; only what is clear is hidden
            rows = np.maximum(share[::2], share[1::2])
            half = np.maximum(rows[:, ::2], rows[:, 1::2])
        else:
            share = alpha
            half = cv2.resize(share, (share.shape[1] // 2, share.shape[0] // 2), interpolation=cv2.INTER_AREA)
        whole, halved = (plane.astype(np.int16) for plane in (share, half))
        for part in (whole, halved):  # 255 to 128, in place
            part += 1
            part >>= 1
        for own, part, out, place in zip(person, (whole, halved, halved), outs, places, strict=False):
            blend_plane(own, part, out[place])

    def _cut(self, matte: Matte, planes: Sequence[np.ndarray]) -> tuple[np.ndarray, Sequence[np.ndarray]]:
        """Alpha (h, w) and the person's own colours as planes, of Y (h, w), U and V (h/2, w/2)."""
        height, width = matte.size
        band = matte.band(0, height)
        index = band.index
        if not self._own_colours:
            matte.solve(band, np.ascontiguousarray(planes[0]).reshape(-1)[index][:, None], colours=False)
            return band.alpha, planes
        row = index // width
        chroma = (row >> 1) * (width >> 1) + ((index - row * width) >> 1)
        own = [np.array(plane, order="C") for plane in planes]
        flat = [plane.reshape(-1) for plane in own]
        colours = matte.solve(band, np.stack((flat[0][index], flat[1][chroma], flat[2][chroma]), 1), colours=True)
        assert colours is not None
        flat[0][index], flat[1][chroma], flat[2][chroma] = colours.T
        return band.alpha, own

    def close(self) -> None:
        self._behind.close()


def _steps(reader: Reader, items: Iterator[Any], layout: Layout, size: tuple[int, int]) -> Iterator[Any]:
    """Decoded frames as `PendingFrame`s with their small copies; packets of sound as they are."""
    from av.video.reformatter import VideoReformatter

    shrink = VideoReformatter()
    height, width = size
    kind = "yuvj444p" if layout.full else "yuv444p"
    start: float | None = None
    for item in items:
        if is_packet(item):
            yield item
            continue
        turn = turn_of(item)
        seconds = float(item.pts * reader.time_base)
        start = seconds if start is None else start
        wanted = (height, width) if turn.exchanged else (width, height)
        small = shrink.reformat(item, *wanted, format=kind, threads=1)
        planes = planes_of(item, layout)
        yield PendingFrame(item.pts, seconds - start, planes, small, turn, alpha_of(item, layout))


def convert_clip(
    portrait: Portrait,
    source: str | PathLike[str] | int | BinaryIO,
    out: str | PathLike[str] | BinaryIO,
    *,
    alpha_format: str = "webm",
    overwrite: bool = False,
    progress: Callable[[int, int | None], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> ClipResult:
    """A clip with the person in front of the portrait's background.

    source        a video file, an animated GIF, the number of a webcam, or a binary stream (y4m, Matroska, MPEG-TS, …)
    out           .mp4, .mov, .mkv or .webm; of a transparent background .webm (VP9), .mov (ProRes 4444) or a folder (PNG);
                  a binary stream: y4m, of a transparent background PNG after PNG
    alpha_format  "webm", "prores" or "png": what a folder or an `out` without suffix means; else the suffix decides
    overwrite     an `out` that is there is replaced; else FileExistsError is raised
    progress      called with the number of frames that are done and of all frames (None: unknown)
    stop          asked at each frame; True ends the clip there, complete

    Frames keep their times and sound is copied where the container can hold it, encoded anew where not.  Ctrl-C ends a file
    like `stop`.  A damaged end of the source ends the file there, too, and is told in the result.  Raises VideoError where
    there is not one frame, ValueError for an `out` that cannot be.
    """
    target = None if hasattr(out, "write") else Path(fspath(out))  # type: ignore[arg-type]
    if target is not None:
        check_target(target, portrait.transparent, alpha_format)
        frames = [*target.glob("*.png"), *target.glob("times.txt")] if target.is_dir() else [target]
        given = Path(fspath(source)) if isinstance(source, str | PathLike) else None
        check_targets(frames, [given], overwrite=overwrite)
    reader: Any
    if isinstance(source, int):
        reader = Camera(source)
    elif hasattr(source, "read"):
        reader = Reader(source, "the input")
    else:
        reader = Reader(fspath(source), fspath(source))  # type: ignore[arg-type]

    def open_writer(stack: contextlib.ExitStack, reader: Any, layout: Layout) -> Writer:
        return _open_writer(stack, portrait, reader, layout, target, out)

    result = run_clip(portrait, reader, open_writer, progress=progress, stop=stop)
    result.path = target
    return result


def live(
    portrait: Portrait,
    number: int,
    to: str,
    *,
    progress: Callable[[int, int | None], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> ClipResult:
    """The webcam `number` to a "window" or a virtual "camera", until `stop`, Ctrl-C, or Q in the window."""
    if isinstance(portrait.background, Transparent):
        raise ValueError(f"a {to} shows no transparency; give another background, e.g. green")
    window: PreviewWindow | None = None

    def open_writer(_: Any, reader: Any, layout: Any) -> Any:
        nonlocal window
        if to == "camera":
            return VirtualCamera(layout.width, layout.height, float(reader.rate))
        window = PreviewWindow()
        return window

    def ended() -> bool:
        return (window is not None and window.closed) or (stop is not None and stop())

    return run_clip(portrait, Camera(number), open_writer, progress=progress, stop=ended)


def run_clip(
    portrait: Portrait,
    source: Any,
    open_writer: Callable[[contextlib.ExitStack, Any, Layout], Any],
    *,
    progress: Callable[[int, int | None], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> ClipResult:
    """From a `Reader` (or what has its face) to the `Writer` that `open_writer` makes for the clip's layout."""
    started = time.perf_counter()
    done, total_share, interrupted = 0, 0.0, False
    with contextlib.ExitStack() as stack:
        # the stages run side by side: if the network took every core, they would wait for it
        stack.enter_context(portrait.predictor.threads(max(1, cores() // 2)))
        reader = stack.enter_context(source)
        portrait.predictor.expected = reader.frames
        frame, items = first_frame(reader)
        layout = layout_of(frame, reader.aspect)
        size = mask_size(portrait, layout)
        worker = FrameWorker(portrait, layout)
        stack.callback(worker.close)
        writer = open_writer(stack, reader, layout)
        decoded = stack.enter_context(Prefetcher(_steps(reader, items, layout, size)))
        segmented = stack.enter_context(
            Prefetcher(worker.segment(i) if isinstance(i, PendingFrame) else i for i in decoded)
        )
        behind = stack.enter_context(Consumer(lambda i: writer.sound(i) if is_packet(i) else writer.frame(i)))
        try:
            for item in segmented:
                if is_packet(item):
                    behind.put(item)
                    continue
                frame, share = worker.composite(item)
                frame.time_base = reader.time_base
                behind.put(frame)
                done, total_share = done + 1, total_share + share
                if progress:
                    progress(done, reader.frames)
                if stop is not None and stop():
                    interrupted = True
                    break
        except KeyboardInterrupt:
            interrupted = True
        behind.finish()
        writer.finish()
        damage = None if interrupted else reader.damage
    seconds = time.perf_counter() - started
    return ClipResult(None, done, seconds, total_share / max(1, done), damage, interrupted)


def mask_size(portrait: Portrait, layout: Layout) -> tuple[int, int]:
    """(height, width) at which the network sees the clip's frames."""
    height, width = portrait.predictor.model_size((layout.height, layout.width))
    if portrait.predictor.preprocessing.long_side is None and max(height, width) > LARGEST_MASK:
        factor = LARGEST_MASK / max(height, width)
        height, width = max(1, round(height * factor)), max(1, round(width * factor))
    return height, width


def clip_suffix(*, transparent: bool, alpha_format: str) -> str:
    """Of the file that a clip becomes; "" is a folder of PNG."""
    if not transparent:
        return ".mp4"
    if alpha_format not in ALPHA_FORMATS:
        raise ValueError(
            f"the format for transparent clips is {alpha_format!r}; give one of {', '.join(ALPHA_FORMATS)}"
        )
    return "" if alpha_format == "png" else ALPHA[alpha_format][0]


def check_target(target: Path, transparent: bool, alpha_format: str) -> None:
    """ValueError for a file that cannot hold the clip."""
    suffix = target.suffix.lower()
    known = {"", *(one for one, _ in ALPHA.values())} if transparent else set(OPAQUE)
    clip_suffix(transparent=transparent, alpha_format=alpha_format)
    if suffix not in known:
        names = ", ".join(sorted(one or "a folder" for one in known))
        kind = "transparent clips" if transparent else "clips"
        raise ValueError(f"{target}: {kind} are written as {names}")


def _open_writer(
    stack: contextlib.ExitStack,
    portrait: Portrait,
    reader: Reader,
    layout: Layout,
    target: Path | None,
    out: Any,
) -> Writer:
    if target is None:
        return PngPipe(out) if portrait.transparent else Y4mPipe(out, reader.rate, layout)
    suffix = target.suffix.lower()
    if portrait.transparent and not suffix:
        return PngFolder(stack.enter_context(atomic_folder(target)))
    form = next(form for one, form in ALPHA.values() if one == suffix) if portrait.transparent else OPAQUE[suffix]
    part = stack.enter_context(atomic_write(target))
    writer = FileWriter(part, form, reader, layout, name=target)
    stack.callback(writer.abandon)
    return writer
