"""Key points of videos and the webcam: NAME_points.mp4 with the points drawn, and a line of JSON for each frame."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from segmentarium.files import atomic_write, check_targets
from segmentarium.inference.video import CLOCK, FORMATS, open_clip
from segmentarium.media.sources import Item, VideoError
from segmentarium.media.stages import Consumer, Prefetcher


def points_of_video(
    finder: Callable[[np.ndarray], Any],
    item: Item,
    folder: str | Path,
    *,
    overwrite: bool = False,
    progress: Callable[[int, int | None], None] | None = None,
) -> tuple[list[Path], int, float]:
    """-> files, number of frames, frames a second, reading, drawing and writing among it.

    finder   picture (H, W, 3) uint8 -> what has an `overlay` and `as_dict`: a `KeypointFinder`, a `PoseFinder`

    A webcam is recorded until Ctrl-C.  FileExistsError where a file is there, unless `overwrite`.
    """
    paths = [Path(folder) / f"{item.name}{ending}" for ending in ("_points.mp4", "_points.jsonl")]
    check_targets(paths, [item.path], overwrite=overwrite)
    started, done = time.perf_counter(), 0
    with contextlib.ExitStack() as stack:
        count, rate, frames = stack.enter_context(open_clip(item))
        lines = stack.enter_context(stack.enter_context(atomic_write(paths[1])).open("w", encoding="utf-8"))
        clip = stack.enter_context(_Clip(stack.enter_context(atomic_write(paths[0])), rate))
        ahead = stack.enter_context(Prefetcher(frames))

        def write(timed: tuple[float, Any]) -> None:
            seconds, result = timed
            clip.write(seconds, np.asarray(result.overlay))
            print(json.dumps({"seconds": round(seconds, 4), **result.as_dict()}), file=lines)

        behind = stack.enter_context(Consumer(write))
        try:
            for frame in ahead:
                behind.put((frame.seconds, finder(frame.pixels)))
                done += 1
                if progress:
                    progress(done, count)
        except KeyboardInterrupt:
            if item.kind != "webcam":
                raise
        behind.finish()
        if not done:
            raise VideoError(f"{item.origin} gave no frame")
    return paths, done, done / (time.perf_counter() - started)


class _Clip:
    """An H.264 file of pictures with their times."""

    def __init__(self, path: Path, rate: float) -> None:
        self._path, self._rate = path, rate
        self._stack = contextlib.ExitStack()
        self._stream: Any = None
        self._container: Any = None
        self._last = -1

    def __enter__(self) -> _Clip:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if self._stream is not None and kind is None:
            self._container.mux(self._stream.encode(None))
        self._stack.close()

    def write(self, seconds: float, pixels: np.ndarray) -> None:
        import av

        height, width = (max(2, side - side % 2) for side in pixels.shape[:2])
        if self._stream is None:
            _, name, codecs, layout, options = FORMATS["overlay"]
            self._container = self._stack.enter_context(av.open(str(self._path), "w", format=name))
            codec = next((c for c in codecs if c in av.codecs_available), codecs[-1])
            rate = Fraction(self._rate).limit_denominator(1001)
            self._stream = self._container.add_stream(codec, rate=rate, options=options if codec == codecs[0] else {})
            self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, layout
            self._stream.codec_context.time_base = Fraction(1, CLOCK)
        if (self._stream.height, self._stream.width) != (height, width):
            raise VideoError("the picture changes its size in mid-video")
        missing = [(0, max(0, 2 - side)) for side in pixels.shape[:2]]
        pixels = np.pad(pixels, [*missing, (0, 0)], mode="edge")[:height, :width]
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        self._last = max(self._last + 1, round(seconds * CLOCK))
        frame.pts, frame.time_base = self._last, Fraction(1, CLOCK)
        self._container.mux(self._stream.encode(frame))
