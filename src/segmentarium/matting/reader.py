"""Clips in, up to where the data ends or is damaged: frames with their times and packets of sound of a file, pipe or webcam.

How much a frame may hold is bounded before FFmpeg makes room for it, and a file that ends before it says is told of.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import time
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain
from typing import Any

from segmentarium.media.clip_ends import missing_end
from segmentarium.media.sources import VideoError

# damaged data shows as an exception of FFmpeg's, or as fewer frames than the head of the file promises
PROMISED = 0.98
LARGEST_FRAME = 40_000_000  # pixels: 8K is 33 million; a frame and its copies take some 35 bytes for each
# containers that hold what they show; playlists and descriptions of streams, which name other files and hosts, are none
FORMATS = (
    "3gp,apng,asf,avi,dv,flv,gif,h264,hevc,ivf,m4v,matroska,mjpeg,mov,mp4,mpeg,mpegts,mpegvideo,mxf,nut,ogg,rm,webm,wtv,"
    "yuv4mpegpipe"
)
# first frames are decoded while a file is opened, so that sizes are bounded from there on
OPTIONS = {"max_pixels": str(LARGEST_FRAME), "format_whitelist": FORMATS, "protocol_whitelist": "file"}
SLOWEST, FASTEST = Fraction(1, 1000), Fraction(1000)  # frames a second that encoders can be told of
TIME_BASE = Fraction(1, 90_000)  # of a webcam's frames
# FFmpeg's own decoders of these codecs leave out the alpha that WebM keeps beside the frames, the library's do not
WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
log = logging.getLogger(__name__)


def is_packet(item: Any) -> bool:
    """Whether what a reader gives is sound, as it lies in the file, and no frame."""
    return type(item).__name__ == "Packet"


def first_frame(reader: Iterable[Any]) -> tuple[Any, Iterator[Any]]:
    """The first frame of a reader, and all that it gives: sound may come before that frame."""
    items, before = iter(reader), list[Any]()
    for item in items:
        before.append(item)
        if not is_packet(item):
            break
    return before[-1], chain(before, items)


class Reader:
    """An opened clip.

    rate, time_base  frames a second on average; unit of the frames' times
    frames           how many the file says that it holds, None: it does not say
    sound            the streams of sound
    damage           after reading: what was wrong with the end, or None

    with_sound       False: only frames are given

    Raises VideoError where not even the head can be read, ImportError without PyAV.
    """

    def __init__(self, source: Any, name: str, *, with_sound: bool = True) -> None:
        try:
            import av
            from av.error import FFmpegError
        except ImportError:
            raise ImportError("clips need PyAV, which is not installed: pip install 'segmentarium[video]'") from None
        self._failures = (FFmpegError,)
        self.name = name
        self._file = source if isinstance(source, str) else None
        try:
            self._container: Any = av.open(source, "r", options=OPTIONS)
        except (FFmpegError, OSError, ValueError) as error:
            raise VideoError(f"{name} cannot be read as a video: {error}") from error
        if not self._container.streams.video:
            self._container.close()
            raise VideoError(f"{name} has no video in it")
        self.stream: Any = self._container.streams.video[0]
        self.stream.thread_type = "AUTO"
        self._check_size(self.stream.codec_context)
        self._decoder: Any = self._alpha_decoder() or self.stream.codec_context
        self._decoder.options = {"max_pixels": str(LARGEST_FRAME)}
        self.rate = Fraction(self.stream.average_rate or self.stream.guessed_rate or 25)
        if not SLOWEST <= self.rate <= FASTEST:
            self.rate = Fraction(25)  # the frames' own times stay
        self.aspect = Fraction(self.stream.sample_aspect_ratio or 1) or Fraction(1)
        self.time_base = Fraction(self.stream.time_base or 1 / self.rate)
        self.frames: int | None = self._count()
        self.sound: list[Any] = list(self._container.streams.audio) if with_sound else []
        self.damage: str | None = None
        # the clock of a broadcast or a recorder is wherever it has got to when the file begins
        starts = [s.start_time * s.time_base for s in (self.stream, *self.sound) if s.start_time is not None]
        self._start = max(Fraction(0), min(starts, default=Fraction(0)))

    def _check_size(self, found: Any) -> None:
        if found.width * found.height > LARGEST_FRAME:
            self.close()
            raise VideoError(
                f"{self.name} has frames of {found.width} x {found.height} pixels, more than the {LARGEST_FRAME:,} that are "
                "done here; scale it down first"
            )

    def _alpha_decoder(self) -> Any:
        """What decodes a stream that says that it has alpha, where FFmpeg's own decoder does not; None: its own does."""
        import av

        given = self.stream.codec_context
        if given.name not in WITH_ALPHA or self.stream.metadata.get("alpha_mode") != "1":
            return None
        try:
            decoder: Any = av.CodecContext.create(WITH_ALPHA[given.name], "r")
        except ValueError:  # PyAV's UnknownCodecError is one
            log.warning("%s: its transparency is not read: this PyAV has no %s", self.name, WITH_ALPHA[given.name])
            return None
        decoder.extradata, decoder.thread_type = given.extradata, "AUTO"
        # what only the container knows
        decoder.color_range, decoder.colorspace = given.color_range, given.colorspace
        decoder.color_primaries, decoder.color_trc = given.color_primaries, given.color_trc
        return decoder

    def _count(self) -> int | None:
        if self.stream.frames:
            return int(self.stream.frames)
        if self.stream.duration and self.stream.time_base:
            return max(1, round(float(self.stream.duration * self.stream.time_base) * self.rate))
        if self._container.duration:
            return max(1, round(self._container.duration / 1e6 * self.rate))
        return None

    def __iter__(self) -> Iterator[Any]:
        """Decoded frames, with a `pts` each, and packets of sound in the order of the file; the first stream begins at 0."""
        decoded, damaged = 0, False
        shift = round(self._start / self.time_base)
        last = -1
        step = max(1, round(1 / (self.rate * self.time_base)))
        try:
            for packet in self._container.demux(self.stream, *self.sound):
                damaged = damaged or packet.is_corrupt
                if packet.stream.type == "audio":
                    if packet.dts is not None:
                        behind = round(self._start / packet.time_base)
                        packet.dts -= behind
                        packet.pts = None if packet.pts is None else packet.pts - behind
                        yield packet
                    continue
                for frame in self._decoder.decode(packet):
                    self._check_size(frame)
                    # times that are missing or do not grow would stop the encoder
                    pts = frame.pts - shift if frame.pts is not None else last + step
                    frame.pts = last = max(last + 1, pts) if decoded else pts
                    decoded += 1
                    yield frame
        except self._failures as error:
            self.damage = f"{self.name} is damaged after {decoded} frames: {error}"
        if not decoded:
            raise VideoError(f"{self.name} has no frame that can be decoded")
        if self.damage is None:
            self.damage = self._missing(decoded, damaged)

    def _missing(self, decoded: int, damaged: bool) -> str | None:
        """What a file that could be read to its end lacks all the same."""
        if self.stream.frames and decoded < PROMISED * self.stream.frames:
            return f"{self.name} ends after {decoded} of {self.stream.frames} frames"
        with contextlib.suppress(OSError):
            if self._file is not None and (missing := missing_end(self._file)) is not None:
                return f"{self.name} was cut off after {decoded} frames: {missing}"
        return f"{self.name} has damaged data among its {decoded} frames" if damaged else None

    def close(self) -> None:
        with contextlib.suppress(Exception):  # a broken pipe has nothing left to close
            self._container.close()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


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
        self.time_base, self.aspect = TIME_BASE, Fraction(1)
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
