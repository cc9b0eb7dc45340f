"""Clips out: video files with their sound, PNG sequences, pipes, a window, and a virtual camera for video calls."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from PIL import Image

from segmentarium.files import png_bytes
from segmentarium.matting.frames import Layout, plane_array
from segmentarium.matting.reader import Camera, Reader
from segmentarium.media.sources import VideoError


@dataclass(frozen=True)
class Form:
    """A kind of video file: container, codecs by preference, pixel format, options of the first codec, codec for sound."""

    container: str
    codecs: tuple[str, ...]
    pixels: str
    options: dict[str, str]
    sound: str


# Half the time of plain "veryfast", for files as small and, at most, 1.3 dB less likeness
_X264 = {"preset": "veryfast", "crf": "21", "x264-params": "rc-lookahead=5:subme=1"}
_VP9 = {"deadline": "realtime", "cpu-used": "8", "row-mt": "1", "crf": "24", "b": "0", "auto-alt-ref": "0"}
OPAQUE = {
    ".mp4": Form("mp4", ("libx264", "mpeg4"), "yuv420p", _X264 | {"movflags": "+faststart"}, "aac"),
    ".mov": Form("mov", ("libx264", "mpeg4"), "yuv420p", _X264, "aac"),
    ".mkv": Form("matroska", ("libx264", "mpeg4"), "yuv420p", _X264, "aac"),
    ".webm": Form("webm", ("libvpx-vp9",), "yuv420p", _VP9, "libopus"),
}
ALPHA = {
    "webm": (".webm", Form("webm", ("libvpx-vp9",), "yuva420p", _VP9, "libopus")),
    "prores": (".mov", Form("mov", ("prores_ks",), "yuva444p10le", {"profile": "4444", "alpha_bits": "8"}, "aac")),
}
ALPHA_FORMATS = (*ALPHA, "png")


class Writer(Protocol):
    """Takes frames (yuv420p or yuva420p, with pts and time_base) and packets of sound; `finish` completes the file."""

    def frame(self, frame: Any) -> None: ...
    def sound(self, packet: Any) -> None: ...
    def finish(self) -> None: ...


@contextlib.contextmanager
def encoding(path: Path) -> Iterator[None]:
    """FFmpeg's errors as a VideoError that names the file that is written; a full disk stays an OSError."""
    from av.error import FFmpegError

    try:
        yield
    except FFmpegError as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise VideoError(f"{path} cannot be encoded: {error.strerror or error}") from error


class FileWriter:
    """A video file.  Sound is copied where the container can hold it and encoded anew where not."""

    def __init__(
        self,
        path: Path,
        form: Form,
        reader: Reader | Camera,
        layout: Layout,
        *,
        name: Path | None = None,
        with_sound: bool = True,
    ) -> None:
        """name: how messages call it, where `path` is temporary"""
        import av

        self._stack = contextlib.ExitStack()
        options = {key: value for key, value in form.options.items() if key == "movflags"}
        self._container = self._stack.enter_context(
            av.open(str(path), "w", format=form.container, container_options=options)
        )
        codec = next((name for name in form.codecs if name in av.codecs_available), form.codecs[-1])
        given = {key: value for key, value in form.options.items() if key != "movflags"}
        self._video: Any = self._container.add_stream(
            codec, rate=reader.rate, options=given if codec == form.codecs[0] else {}
        )
        self._video.width, self._video.height, self._video.pix_fmt = layout.width, layout.height, form.pixels
        context = self._video.codec_context
        context.time_base = reader.time_base
        context.thread_type = "AUTO"
        if layout.aspect != 1:
            context.sample_aspect_ratio = layout.aspect
        if form.pixels != "gray":
            layout.tag(context)
        self._pixels, self._path = form.pixels, name or path
        self._sound: dict[int, Any] = {}
        self._encoders: dict[int, Any] = {}
        for stream in reader.sound if with_sound else ():
            if stream.codec_context is None:
                continue  # a codec that FFmpeg does not know can be neither copied nor encoded
            if stream.codec_context.name in self._container.supported_codecs:
                self._sound[stream.index] = self._container.add_stream_from_template(stream)
            else:
                rate = 48_000 if form.sound == "libopus" else stream.codec_context.sample_rate
                self._encoders[stream.index] = self._container.add_stream(form.sound, rate=rate)

    def frame(self, frame: Any) -> None:
        if frame.format.name != self._pixels:
            pts, base = frame.pts, frame.time_base
            frame = frame.reformat(format=self._pixels)
            frame.pts, frame.time_base = pts, base
        with encoding(self._path):
            self._container.mux(self._video.encode(frame))

    def sound(self, packet: Any) -> None:
        index = packet.stream.index
        if index in self._sound:
            packet.stream = self._sound[index]
            with encoding(self._path):
                self._container.mux(packet)
        elif index in self._encoders:
            from av.error import FFmpegError

            with contextlib.suppress(FFmpegError):  # a damaged packet of sound is left out
                for frame in packet.decode():
                    self._container.mux(self._encoders[index].encode(frame))

    def finish(self) -> None:
        with encoding(self._path):
            self._container.mux(self._video.encode(None))
            for encoder in self._encoders.values():
                self._container.mux(encoder.encode(None))
            self._stack.close()

    def abandon(self) -> None:
        """Closes an unfinished file."""
        with contextlib.suppress(Exception):
            self._stack.close()


class PngFolder:
    """000000.png, 000001.png, … with alpha, and times.txt: the seconds of each frame."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._number = folder, 0
        self._times: list[str] = []

    def frame(self, frame: Any) -> None:
        rgba(frame).save(self._folder / f"{self._number:06d}.png", compress_level=1)
        self._times.append(f"{float(frame.pts * frame.time_base):.6f}")
        self._number += 1

    def sound(self, packet: Any) -> None:
        pass

    def finish(self) -> None:
        (self._folder / "times.txt").write_text("\n".join([*self._times, ""]), encoding="utf-8")


class PngPipe:
    """PNG files one after the other, as `ffmpeg -f image2pipe -c:v png` reads them."""

    def __init__(self, pipe: BinaryIO) -> None:
        self._pipe = pipe

    def frame(self, frame: Any) -> None:
        self._pipe.write(png_bytes(rgba(frame), 1))

    def sound(self, packet: Any) -> None:
        pass

    def finish(self) -> None:
        self._pipe.flush()


class Y4mPipe:
    """Uncompressed YUV4MPEG2, which FFmpeg and players read from a pipe.  It has one rate and no sound."""

    def __init__(self, pipe: BinaryIO, rate: Fraction, layout: Layout) -> None:
        self._pipe = pipe
        colours = "420jpeg XCOLORRANGE=FULL" if layout.full else "420mpeg2 XCOLORRANGE=LIMITED"
        aspect = f"{layout.aspect.numerator}:{layout.aspect.denominator}"
        head = (
            f"YUV4MPEG2 W{layout.width} H{layout.height} F{rate.numerator}:{rate.denominator} Ip A{aspect} C{colours}\n"
        )
        self._pipe.write(head.encode("ascii"))

    def frame(self, frame: Any) -> None:
        self._pipe.write(b"FRAME\n")
        for plane in frame.planes[:3]:
            self._pipe.write(np.ascontiguousarray(plane_array(plane)).data)

    def sound(self, packet: Any) -> None:
        pass

    def finish(self) -> None:
        self._pipe.flush()


class PreviewWindow:
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


def rgba(frame: Any) -> Image.Image:
    """A yuva420p frame as RGBA with nothing under what is clear."""
    pixels = frame.to_ndarray(format="rgba")
    pixels[pixels[..., 3] == 0] = 0
    return Image.fromarray(pixels)
