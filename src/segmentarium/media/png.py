"""PNG files written row by row, for pictures that are never in memory whole."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

_COLOUR_TYPES = {"P": 3, "L": 0, "RGB": 2, "RGBA": 6}
_CHANNELS = {"P": 1, "L": 1, "RGB": 3, "RGBA": 4}
_CHUNK = 2**20


class PngWriter:
    """Writes an 8-bit PNG from top to bottom.

        with PngWriter(path, width, height, "P", palette) as png:
            png.write(rows)        # (n, W) or (n, W, channels) uint8, until all `height` rows are there

    mode         "P" (index with palette), "L", "RGB" or "RGBA"
    palette      RGB colours in 0..255 of mode "P", up to 256
    compression  of zlib: 1 is fast; class indices shrink well at any level
    """

    def __init__(
        self,
        path: str | Path,
        width: int,
        height: int,
        mode: str,
        palette: Sequence[tuple[int, int, int]] = (),
        *,
        compression: int = 1,
    ) -> None:
        if mode not in _COLOUR_TYPES:
            raise ValueError(f"mode is {mode!r}; give one of {', '.join(_COLOUR_TYPES)}")
        if mode == "P" and not 1 <= len(palette) <= 256:
            raise ValueError(f"a palette of {len(palette)} colours; mode P takes 1 to 256")
        self.width, self.height, self.channels = width, height, _CHANNELS[mode]
        self._rows = 0
        # Differences to the row above help photographs and spoil class indices.
        self._above = None if mode == "P" else np.zeros(width * self.channels, np.uint8)
        self._zlib = zlib.compressobj(compression)
        self._pending = bytearray()
        self._file = Path(path).open("wb")  # noqa: SIM115 - closed by __exit__
        self._file.write(b"\x89PNG\r\n\x1a\n")
        self._chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, _COLOUR_TYPES[mode], 0, 0, 0))
        if mode == "P":
            self._chunk(b"PLTE", np.asarray(palette, np.uint8).tobytes())

    def write(self, rows: np.ndarray) -> None:
        """The next rows, uint8 (n, W) or (n, W, channels)."""
        flat = np.ascontiguousarray(rows).reshape(len(rows), -1)
        if flat.shape[1] != self.width * self.channels or flat.dtype != np.uint8:
            raise ValueError(
                f"rows of shape {rows.shape} and type {rows.dtype}; expected uint8, "
                f"{self.width} pixels of {self.channels} channels"
            )
        self._rows += len(flat)
        filtered = np.empty((len(flat), flat.shape[1] + 1), np.uint8)
        if self._above is None:
            filtered[:, 0], filtered[:, 1:] = 0, flat
        else:
            filtered[:, 0] = 2  # "up"; the difference wraps around, as the format wants it
            np.subtract(flat[:1], self._above, out=filtered[:1, 1:])
            np.subtract(flat[1:], flat[:-1], out=filtered[1:, 1:])
            self._above = flat[-1].copy() if len(flat) else self._above
        self._pending += self._zlib.compress(filtered.data)
        if len(self._pending) >= _CHUNK:
            self._flush()

    def _flush(self) -> None:
        self._chunk(b"IDAT", bytes(self._pending))
        self._pending.clear()

    def _chunk(self, kind: bytes, data: bytes) -> None:
        self._file.write(struct.pack(">I", len(data)) + kind)
        self._file.write(data)
        self._file.write(struct.pack(">I", zlib.crc32(data, zlib.crc32(kind))))

    def close(self) -> None:
        """Completes the file.  ValueError where rows are missing."""
        if self._file.closed:
            return
        try:
            if self._rows != self.height:
                raise ValueError(f"{self._rows} rows were written of {self.height}")
            self._pending += self._zlib.flush()
            self._flush()
            self._chunk(b"IEND", b"")
        finally:
            self._file.close()

    def abandon(self) -> None:
        """Closes the file as it is; nothing happens to a complete one."""
        self._file.close()

    def __enter__(self) -> PngWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self.abandon()
