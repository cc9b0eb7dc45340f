"""What goes behind the person in a clip: planes of each frame's size, made once where they stay the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
from PIL import Image

from segmentarium.matting.backgrounds import Background, Blur, Clip, Colour, Picture, blurred, covering_box
from segmentarium.matting.frames import Layout, planes_of, rgb_to_planes
from segmentarium.matting.reader import Reader

Planes = tuple[Any, Any, Any]  # Y, U, V: arrays uint8, or one number each


class ClipBackground:
    """Gives the background of each frame."""

    def __init__(self, background: Background, layout: Layout) -> None:
        self._background, self._layout = background, layout
        self._fixed: Planes | None = None
        self._looped: _Looped | None = None
        if isinstance(background, Picture):
            self._fixed = rgb_to_planes(_covering(background.pixels, layout), layout)
        elif isinstance(background, Clip):
            self._looped = _Looped(background, layout)
        elif not isinstance(background, Blur):  # of "transparent" the colour that is hidden: black
            colour = background.rgb if isinstance(background, Colour) else (0, 0, 0)
            planes = rgb_to_planes(np.full((2, 2, 3), colour, np.uint8), layout)
            self._fixed = (int(planes[0][0, 0]), int(planes[1][0, 0]), int(planes[2][0, 0]))

    def fill(self, outs: Sequence[np.ndarray], guide: np.ndarray, alpha: np.ndarray, seconds: float) -> None:
        """Writes what is behind the frame at `seconds` into its planes Y (H, W), U and V (H/2, W/2), uint8.

        guide, alpha  the frame in small, (3, h, w) float32 in YUV, 0..1, and the person's share there, (h, w)
        """
        if isinstance(self._background, Blur):
            for out, plane in zip(outs, blurred(guide, alpha, self._background.strength), strict=True):
                cv2.resize(plane, (out.shape[1], out.shape[0]), out, interpolation=cv2.INTER_LINEAR)
            return
        planes = self._fixed if self._looped is None else self._looped.at(seconds)
        assert planes is not None
        for out, plane in zip(outs, planes, strict=True):
            out[:] = plane

    def close(self) -> None:
        if self._looped is not None:
            self._looped.close()


def _covering(pixels: np.ndarray, layout: Layout) -> np.ndarray:
    image = Image.fromarray(np.ascontiguousarray(pixels))
    size = (layout.width, layout.height)
    box = covering_box(image.size, size)
    return np.asarray(image.resize(size, Image.Resampling.LANCZOS, box=box, reducing_gap=3))


class _Looped:
    """A video's frames at any growing time, from the start again after its end."""

    def __init__(self, background: Clip, layout: Layout) -> None:
        self._path, self._layout = background.path, layout
        self._frames = self._endless()
        self._now = next(self._frames)
        self._next = next(self._frames)

    def at(self, seconds: float) -> Planes:
        while self._next[0] <= seconds + 1e-3:  # sums of frame times differ in their last digits
            self._now, self._next = self._next, next(self._frames)
        if not isinstance(self._now[1], tuple):
            self._now = (self._now[0], self._cut(self._now[1]))
        return self._now[1]

    def _endless(self) -> Iterator[tuple[float, Any]]:
        start = 0.0
        while True:
            with Reader(str(self._path), str(self._path)) as reader:
                first: float | None = None
                end = start
                for item in reader:
                    if not hasattr(item, "planes"):
                        continue  # a packet of sound
                    seconds = float(item.pts * reader.time_base)
                    first = seconds if first is None else first
                    end = start + seconds - first
                    yield end, item
                start = end + float(1 / reader.rate)

    def _cut(self, frame: Any) -> Planes:
        layout = self._layout
        factor = max(layout.width / frame.width, layout.height / frame.height)
        width = max(layout.width, round(frame.width * factor / 2) * 2)
        height = max(layout.height, round(frame.height * factor / 2) * 2)
        y, u, v = planes_of(frame, Layout(width, height, layout.space, layout.full))
        left, top = (width - layout.width) // 4, (height - layout.height) // 4
        half = (slice(top, top + layout.height // 2), slice(left, left + layout.width // 2))
        whole = (slice(2 * top, 2 * top + layout.height), slice(2 * left, 2 * left + layout.width))
        return y[whole], u[half], v[half]

    def close(self) -> None:
        self._frames.close()  # type: ignore[attr-defined] - a generator
