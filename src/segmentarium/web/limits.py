"""What one server takes on: sizes, times and numbers, and the error that says which of them was exceeded."""

from __future__ import annotations

from dataclasses import dataclass, fields

WORKING, MATTING = 20, 2**27  # bytes a pixel of blend and encoder, and besides of the matte, whose size has a bound
DECODING, DECODER = 24, 2**28  # bytes a pixel, and besides, that a decoder's process may have: the system sees to it


@dataclass(frozen=True)
class Limits:
    """Bounds of a server.  Beside its models its memory stays below `Limits.memory` bytes.

    upload_bytes    of one request, all its files together
    pixels          of one picture, judged by its header before anything is decoded
    places          requests that are read, wait or are computed at a time; the next ones are answered with 503
    workers         pictures that are decoded, matted and encoded at a time; their networks run as batches
    seconds         from the complete upload to the answer, waiting included; 504 afterwards
    upload_seconds  for sending a request; 408 afterwards
    decode_seconds  for decoding one picture, whose process is then ended; 422
    head_seconds    for the lines of a request before its body; the connection is closed afterwards, silent ones, too
    answer_seconds  for reading an answer; the connection is closed afterwards
    connections     at a time; the one that has been silent for longest goes when there is one more
    end_seconds     from SIGTERM or Ctrl-C to the end of the process, whatever is being computed
    """

    upload_bytes: int = 32 * 2**20
    pixels: int = 40_000_000
    places: int = 24
    workers: int = 4
    seconds: float = 60.0
    upload_seconds: float = 60.0
    decode_seconds: float = 10.0
    head_seconds: float = 10.0
    answer_seconds: float = 60.0
    connections: int = 256
    end_seconds: float = 15.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not value > 0:
                raise ValueError(f"{field.name} is {value}; give a number above 0")

    @property
    def memory(self) -> int:
        """Bytes: each place has its upload or, afterwards, an answer that waits to be read; each worker has pictures.

        A connection beyond the places has 128 KB at the most.
        """
        answer = 4 * self.pixels + 2**16  # PNG with alpha of pure noise
        working = self.workers * (self.pixels * (WORKING + DECODING) + MATTING + DECODER)
        return self.places * max(self.upload_bytes, answer) + working + self.connections * 2**17


class Refused(Exception):
    """A request that gets an error as its answer.

    status       of HTTP, 400 to 599
    retry_after  seconds after which another try makes sense
    """

    def __init__(self, status: int, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.retry_after = status, message, retry_after
