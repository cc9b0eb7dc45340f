"""Pictures of strangers, decoded in processes of their own, which can be ended: a decoder in a thread cannot.

A worker reads one upload after the other from its standard input and gives back pixels.  Its memory is limited by the system,
where that can be done, and its time by whoever asks.  It is started when it is first needed and again after it was ended.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import signal
import struct
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, TypeVar

import numpy as np

from segmentarium.data.image_io import ImageReadError, TooLargeError, open_image, with_alpha
from segmentarium.web.limits import DECODER, DECODING, Limits, Refused

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")  # the best known decoders alone
START_SECONDS = 60.0
END_SECONDS = 1.0  # in which processes that were killed are gone; one that is not ends without being waited for
ENDING = "the server is being ended"
_READY = b"."
_HEAD = struct.Struct("<Q")  # bytes that follow
_ANSWER = struct.Struct("<HIII")  # status of HTTP, height, width, channels; 200 is followed by pixels, others by words
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def decode(data: bytes, limits: Limits, what: str = "the upload", bits: int | None = None) -> np.ndarray:
    """The picture, upright: (H, W, 3) uint8, or (H, W, 4) where a part of it is transparent; of an animation the first frame.

    bits   of deep values, as `to_8_bit` takes them

    Refused with 413 (more pixels than allowed, by the header: nothing is decoded), 422 (no picture, damaged, truncated).
    """
    if not data:
        raise Refused(422, f"{what} is empty (0 bytes)")
    stream = io.BytesIO(data)
    stream.name = what  # how messages call it
    try:
        with open_image(stream, limits.pixels, FORMATS) as image:
            return with_alpha(image, stream, bits)
    except TooLargeError as error:
        raise Refused(413, str(error).partition(";")[0]) from None
    except ImageReadError as error:
        known = f"its contents are neither {', '.join(FORMATS[:-1])} nor {FORMATS[-1]}"
        raise Refused(422, str(error).replace("its contents fit no known format", known)) from None


Worker = subprocess.Popen[bytes]
T = TypeVar("T")


class Decoders:
    """At most `limits.workers` processes; `decode` waits for one of them.  Usable from any thread."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._free = threading.BoundedSemaphore(limits.workers)
        self._guard = threading.Lock()
        self._idle: list[Worker] = []
        self._busy: set[Worker] = set()
        self._closed = False
        self._end = weakref.finalize(self, _end_all, self._idle, self._busy)

    def decode(self, data: bytes, what: str = "the upload", bits: int | None = None) -> np.ndarray:
        """As `decode`, and Refused (422) for what takes longer than `limits.decode_seconds`, (503) after `close`."""
        with self._free:
            worker = self._take()
            if worker is None:
                worker, _ = self._within(START_SECONDS, _start(self._limits), lambda one: _read(one.stdout, 1), what)
            answer = self._within(self._limits.decode_seconds, worker, lambda one: _ask(one, data, what, bits), what)
            status, shape, content = answer[1]
            self._give(worker)
        if status != 200:
            raise Refused(status, content.decode("utf-8", "replace"))
        return np.frombuffer(content, np.uint8).reshape(shape)

    def _within(self, seconds: float, worker: Worker, ask: Callable[[Worker], T], what: str) -> tuple[Worker, T]:
        """What the worker answers; one that does not within so many seconds is ended."""
        with self._guard:
            self._busy.add(worker)
            if self._closed:
                worker.kill()
        late = threading.Event()

        def end() -> None:
            late.set()
            worker.kill()

        clock = threading.Timer(seconds, end)
        clock.daemon = True
        clock.start()
        try:
            return worker, ask(worker)
        except (OSError, EOFError):
            self._drop(worker)
            if late.is_set():
                raise Refused(422, f"{what} takes longer than {seconds:g} seconds to decode") from None
            if self._closed:
                raise _ending() from None
            raise Refused(422, f"{what} cannot be decoded: its decoder ended, or needs too much memory") from None
        except BaseException:
            self._drop(worker)
            raise
        finally:
            clock.cancel()

    def _take(self) -> Worker | None:
        """One that waits for work; None: another is to be started."""
        with self._guard:
            if self._closed:
                raise _ending()
            while self._idle:
                worker = self._idle.pop()
                if worker.poll() is None:
                    return worker
        return None

    def _give(self, worker: Worker) -> None:
        with self._guard:
            self._busy.discard(worker)
            if not self._closed:
                self._idle.append(worker)
                return
        _end_all([worker], set())

    def _drop(self, worker: Worker) -> None:
        with self._guard:
            self._busy.discard(worker)
        _end_all([worker], set())

    def close(self) -> None:
        """Ends every process, also those that are decoding, in little more than END_SECONDS."""
        with self._guard:
            self._closed = True
        self._end()


def _ending() -> Refused:
    return Refused(503, ENDING, retry_after=10)


def _start(limits: Limits) -> Worker:
    # none of the environment's threads: each would take address space
    environment = {**os.environ, **dict.fromkeys(_THREADS, "1")}
    paths = os.pathsep.join(filter(None, sys.path))  # where this process found the package
    return subprocess.Popen(
        [sys.executable, "-m", "segmentarium.web.decoding", str(limits.pixels), str(limits.decode_seconds)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**environment, "PYTHONPATH": paths},
        bufsize=0,
        start_new_session=True,  # Ctrl-C is for the server, which ends them
    )


def _ask(worker: Worker, data: bytes, what: str, bits: int | None) -> tuple[int, tuple[int, ...], bytearray]:
    """status of HTTP, shape, and pixels or words"""
    assert worker.stdin is not None
    assert worker.stdout is not None
    for part in (f"{bits or ''} {what}".encode(), data):
        worker.stdin.write(_HEAD.pack(len(part)))
        rest = memoryview(part)
        while rest:  # a pipe without a buffer takes what fits
            rest = rest[worker.stdin.write(rest) or 0 :]
    status, *shape = _ANSWER.unpack(_read(worker.stdout, _ANSWER.size))
    length = math.prod(shape) if status == 200 else _HEAD.unpack(_read(worker.stdout, _HEAD.size))[0]
    return status, tuple(shape), _read(worker.stdout, length)


def _read(stream: Any, length: int) -> bytearray:
    found = bytearray(length)
    view, done = memoryview(found), 0
    while done < length:
        count = stream.readinto(view[done:])
        if not count:
            raise EOFError
        done += count
    return found


def _end_all(idle: list[Worker], busy: set[Worker]) -> None:
    """Kills them; waits for all of them together, as the server has its own end to keep."""
    for worker in [*idle, *busy]:
        worker.kill()
    last = time.monotonic() + END_SECONDS
    for worker in [*idle, *busy]:
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.wait(max(0.0, last - time.monotonic()))
        for pipe in (worker.stdin, worker.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None and worker in idle:  # a thread reads from those of the others, and closes them
                    pipe.close()
    idle.clear()


def _requests(stream: BinaryIO) -> Iterator[tuple[bytes, str, int | None]]:
    with contextlib.suppress(EOFError):
        while True:
            bits, _, what = _read(stream, _HEAD.unpack(_read(stream, _HEAD.size))[0]).decode().partition(" ")
            data = bytes(_read(stream, _HEAD.unpack(_read(stream, _HEAD.size))[0]))
            yield data, what, int(bits) if bits else None


def main(pixels: int, seconds: float) -> None:
    """The worker: until its standard input ends, which it does with the server, however that ends."""
    _limit_memory(DECODER + DECODING * pixels)
    limits = Limits(pixels=pixels)
    answers, sys.stdout = sys.stdout.buffer, sys.stderr  # what a decoder prints is no answer
    answers.write(_READY)
    answers.flush()
    for data, what, bits in _requests(sys.stdin.buffer):
        if hasattr(signal, "alarm"):  # a server that was killed ends nobody
            signal.alarm(math.ceil(seconds) + 2)
        try:
            image = decode(data, limits, what, bits)
            head, content = _ANSWER.pack(200, *image.shape), image.data
        except MemoryError:
            head, content = _refusal(413, f"{what} needs more memory than a picture may")
        except Refused as refused:
            head, content = _refusal(refused.status, refused.message)
        answers.write(head)
        answers.write(content)
        answers.flush()
        if hasattr(signal, "alarm"):
            signal.alarm(0)
        del data, content


def _refusal(status: int, message: str) -> tuple[bytes, memoryview]:
    words = message.encode("utf-8", "replace")
    return _ANSWER.pack(status, 0, 0, 0) + _HEAD.pack(len(words)), io.BytesIO(words).getbuffer()


def _limit_memory(count: int) -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    with contextlib.suppress(ValueError, OSError):  # a lower limit stands already
        resource.setrlimit(resource.RLIMIT_AS, (count, count))


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
