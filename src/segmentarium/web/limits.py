"""What one server takes on: sizes, times and numbers, and the error that says which of them was exceeded."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Limits:
    """Bounds of a server.  Its memory stays below places x upload_bytes + workers x pixels x about 20 bytes.

    upload_bytes    of one request, all its files together
    pixels          of one picture, judged by its header before anything is decoded
    places          requests that are read, wait or are computed at a time; the next ones are answered with 503
    workers         pictures that are decoded, matted and encoded at a time; their networks run as batches
    seconds         from the complete upload to the answer, waiting included; 504 afterwards
    upload_seconds  for sending a request; 408 afterwards
    """

    upload_bytes: int = 32 * 2**20
    pixels: int = 40_000_000
    places: int = 24
    workers: int = 4
    seconds: float = 60.0
    upload_seconds: float = 60.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not value > 0:
                raise ValueError(f"{field.name} is {value}; give a number above 0")


class Refused(Exception):
    """A request that gets an error as its answer.

    status       of HTTP, 400 to 599
    retry_after  seconds after which another try makes sense
    """

    def __init__(self, status: int, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.retry_after = status, message, retry_after
