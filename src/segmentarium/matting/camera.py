"""The webcam, live: to a window or to a virtual camera that video calls can choose; or recorded."""

from __future__ import annotations

import contextlib
import importlib.util
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from segmentarium.inference.video import VideoError
from segmentarium.matting.backgrounds import Transparent

if TYPE_CHECKING:
    from segmentarium.matting.clip import ClipResult
    from segmentarium.matting.portrait import Portrait

TIME_BASE = Fraction(1, 90_000)


class Camera:
    """A webcam with the face of a `Reader`: frames of PyAV with the times at which they came."""

    def __init__(self, number: int) -> None:
        import cv2

        if importlib.util.find_spec("av") is None:
            raise ImportError("the webcam needs PyAV, which is not installed: pip install 'segmentarium[video]'")
        self.name = f"webcam {number}"
        self._camera = cv2.VideoCapture(number)
        if not self._camera.isOpened():
            self._camera.release()
            raise VideoError(
                f"webcam {number} cannot be opened: there is none of that number, or another program has it"
            )
        self.rate = Fraction(self._camera.get(cv2.CAP_PROP_FPS) or 25).limit_denominator(1001)
        self.time_base = TIME_BASE
        self.frames: int | None = None
        self.sound: list[Any] = []
        self.damage: str | None = None

    def __iter__(self) -> Iterator[Any]:
        import av

        started, last = time.perf_counter(), -1
        while True:
            grabbed: tuple[bool, Any] = self._camera.read()
            good, pixels = grabbed
            if not good:
                break
            frame = av.VideoFrame.from_ndarray(pixels, format="bgr24")
            last = max(last + 1, round((time.perf_counter() - started) / TIME_BASE))
            frame.pts = last
            yield frame
        if last < 0:
            raise VideoError(f"{self.name} gives no picture")

    def close(self) -> None:
        self._camera.release()

    def __enter__(self) -> Camera:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Window:
    """Shows frames; `closed` once Q or Escape was pressed.  ImportError where OpenCV was built without windows."""

    def __init__(self, title: str = "segmentarium portrait (Q ends it)") -> None:
        import cv2

        self._title, self.closed = title, False
        try:
            cv2.namedWindow(title, cv2.WINDOW_NORMAL)
        except cv2.error:
            raise ImportError(
                "this OpenCV has no windows (opencv-python-headless, or no display); install opencv-python on a machine "
                "with a screen, or choose --to files or --to camera"
            ) from None

    def frame(self, frame: Any) -> None:
        import cv2

        cv2.imshow(self._title, frame.to_ndarray(format="bgr24"))
        self.closed = self.closed or (cv2.waitKey(1) & 0xFF) in (ord("q"), 27)

    def sound(self, packet: Any) -> None:
        pass

    def finish(self) -> None:
        import cv2

        cv2.destroyWindow(self._title)


class VirtualCamera:
    """A camera that other programs can choose, through pyvirtualcam.  ImportError without it, VideoError without a device."""

    def __init__(self, width: int, height: int, rate: float) -> None:
        try:
            import pyvirtualcam  # type: ignore[import-not-found] - no requirement: it needs a driver of the system, too
        except ImportError:
            raise ImportError(
                "the virtual camera needs pyvirtualcam, which is not installed: pip install pyvirtualcam, and a device: "
                "v4l2loopback on Linux, OBS on macOS and Windows"
            ) from None
        try:
            self._camera = pyvirtualcam.Camera(width=width, height=height, fps=rate)
        except RuntimeError as error:
            raise VideoError(f"no virtual camera can be opened: {error}") from error

    def frame(self, frame: Any) -> None:
        self._camera.send(frame.to_ndarray(format="rgb24"))

    def sound(self, packet: Any) -> None:
        pass

    def finish(self) -> None:
        with contextlib.suppress(RuntimeError):
            self._camera.close()


def live(
    portrait: Portrait,
    number: int,
    to: str,
    *,
    progress: Callable[[int, int | None], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> ClipResult:
    """The webcam `number` to a "window" or a virtual "camera", until `stop`, Ctrl-C, or Q in the window."""
    from segmentarium.matting.clip import run_clip

    if isinstance(portrait.background, Transparent):
        raise ValueError(f"a {to} shows no transparency; give another background, e.g. green")
    window: Window | None = None

    def open_writer(_: Any, reader: Any, layout: Any) -> Any:
        nonlocal window
        if to == "camera":
            return VirtualCamera(layout.width, layout.height, float(reader.rate))
        window = Window()
        return window

    def ended() -> bool:
        return (window is not None and window.closed) or (stop is not None and stop())

    return run_clip(portrait, Camera(number), open_writer, progress=progress, stop=ended)
