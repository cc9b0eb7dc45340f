"""Key points of videos and the webcam: NAME_points.mp4 with the points drawn, and a line of JSON for each frame."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from segmentarium.files import atomic_write, check_targets
from segmentarium.inference.video import FORMATS, open_clip
from segmentarium.matting.frames import frame_of
from segmentarium.matting.writers import FileWriter
from segmentarium.media.sources import Item, VideoError
from segmentarium.media.stages import Consumer, Prefetcher


def points_of_video(
    finder: Callable[[np.ndarray], Any],
    item: Item,
    folder: str | Path,
    *,
    overwrite: bool = False,
    progress: Callable[[int, int | None], None] | None = None,
) -> tuple[list[Path], int, float, str | None]:
    """-> files, number of frames, frames a second (reading, drawing and writing among it), what is wrong with the clip's end.

    finder   picture (H, W, 3) uint8 -> what has an `overlay` and `as_dict`: a `KeypointFinder`, a `PoseFinder`

    A webcam is recorded until Ctrl-C.  FileExistsError where a file is there, unless `overwrite`.
    """
    paths = [Path(folder) / f"{item.name}{ending}" for ending in ("_points.mp4", "_points.jsonl")]
    check_targets(paths, [item.path], overwrite=overwrite)
    started, done = time.perf_counter(), 0
    with contextlib.ExitStack() as stack:
        clip = stack.enter_context(open_clip(item))  # which says so where PyAV is missing
        from av.video.reformatter import VideoReformatter

        lines = stack.enter_context(stack.enter_context(atomic_write(paths[1])).open("w", encoding="utf-8"))
        part = stack.enter_context(atomic_write(paths[0]))
        film = FileWriter(part, FORMATS["overlay"][1], clip.reader, clip.layout, name=paths[0])
        stack.callback(film.abandon)
        convert = VideoReformatter()
        ahead = stack.enter_context(Prefetcher(clip.frames))

        def write(timed: tuple[int, float, Any]) -> None:
            ticks, seconds, result = timed
            drawn = np.asarray(result.overlay)
            height, width = clip.layout.height, clip.layout.width
            if abs(drawn.shape[0] - height) > 1 or abs(drawn.shape[1] - width) > 1:
                raise VideoError("the picture changes its size in mid-video")
            missing = [(0, max(0, height - drawn.shape[0])), (0, max(0, width - drawn.shape[1])), (0, 0)]
            drawn = np.pad(drawn, missing, mode="edge")[:height, :width]
            frame = frame_of(drawn, "rgb24", "yuv420p", clip.layout, convert)
            frame.pts, frame.time_base = ticks, clip.reader.time_base
            film.frame(frame)
            print(json.dumps({"seconds": round(seconds, 4), **result.as_dict()}), file=lines)

        behind = stack.enter_context(Consumer(write))
        try:
            for frame in ahead:
                behind.put((frame.ticks, frame.seconds, finder(frame.pixels)))
                done += 1
                if progress:
                    progress(done, clip.reader.frames)
        except KeyboardInterrupt:
            if item.kind != "webcam":
                raise
        behind.finish()
        film.finish()
        damage = clip.reader.damage
    return paths, done, done / (time.perf_counter() - started), damage
