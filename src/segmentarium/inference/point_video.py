"""Key points of videos and the webcam: NAME_points.mp4 with the points drawn, and a line of JSON for each frame."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segmentarium.files import atomic_write, check_targets
from segmentarium.inference.result import check_kinds
from segmentarium.inference.video import FORMATS, open_clip
from segmentarium.matting.frames import frame_of
from segmentarium.matting.writers import FileWriter
from segmentarium.media.sources import Item, VideoError
from segmentarium.media.stages import Consumer, Prefetcher

ENDINGS = {"overlay": "_points.mp4", "json": "_points.jsonl"}


def points_of_video(
    finder: Callable[[np.ndarray], Any],
    item: Item,
    folder: str | Path,
    kinds: Sequence[str] = tuple(ENDINGS),
    *,
    overwrite: bool = False,
    progress: Callable[[int, int | None], None] | None = None,
) -> tuple[list[Path], int, float, str | None]:
    """-> files, number of frames, frames a second (reading, drawing and writing among it), what is wrong with the clip's end.

    finder   picture (H, W, 3 or 4) uint8 -> what has an `overlay` and `as_dict`: a `KeypointFinder`, a `PoseFinder`

    kinds    of "overlay", "json"; ValueError for others

    A webcam is recorded until Ctrl-C.  FileExistsError where a file is there, unless `overwrite`.
    """
    check_kinds(kinds, tuple(ENDINGS))
    paths = {kind: Path(folder) / f"{item.name}{ENDINGS[kind]}" for kind in kinds}
    check_targets(paths.values(), [item.path], overwrite=overwrite)
    started, done = time.perf_counter(), 0
    with contextlib.ExitStack() as stack:
        clip = stack.enter_context(open_clip(item))  # which says so where PyAV is missing
        from av.video.reformatter import VideoReformatter

        lines = film = None
        if "json" in paths:
            lines = stack.enter_context(stack.enter_context(atomic_write(paths["json"])).open("w", encoding="utf-8"))
        if "overlay" in paths:
            part = stack.enter_context(atomic_write(paths["overlay"]))
            film = FileWriter(part, FORMATS["overlay"][1], clip.reader, clip.layout, name=paths["overlay"])
            stack.callback(film.abandon)
        convert = VideoReformatter()
        ahead = stack.enter_context(Prefetcher(clip.frames))

        def write(timed: tuple[int, float, Any]) -> None:
            ticks, seconds, result = timed
            if lines is not None:
                print(json.dumps({"seconds": round(seconds, 4), **result.as_dict()}), file=lines)
            if film is None:
                return
            drawn = np.asarray(result.overlay)
            height, width = clip.layout.height, clip.layout.width
            if abs(drawn.shape[0] - height) > 1 or abs(drawn.shape[1] - width) > 1:
                raise VideoError("the picture changes its size in mid-video")
            missing = [(0, max(0, height - drawn.shape[0])), (0, max(0, width - drawn.shape[1])), (0, 0)]
            drawn = np.pad(drawn, missing, mode="edge")[:height, :width]
            frame = frame_of(drawn, "rgb24", "yuv420p", clip.layout, convert)
            frame.pts, frame.time_base = ticks, clip.reader.time_base
            film.frame(frame)

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
        if film is not None:
            film.finish()
        damage = clip.reader.damage
    return list(paths.values()), done, done / (time.perf_counter() - started), damage
