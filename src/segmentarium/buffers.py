"""Arrays that networks write their outputs into, and that are used again when nobody holds them any more.

The scores of a picture are large: of 19 classes at 1024×512 they are 40 MB, and memory of that size that is new with each picture
costs as much time as a small network (seen: 11 of Fast-SCNN's 31 ms), for the system gives it page by page.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence

import numpy as np

SMALLEST = 2**20  # bytes from which an array is worth keeping
LARGEST = 2**28  # bytes kept in all
COPIES = 3  # of one shape: what is being written, what is being looked at, and one more


def _holders(arrays: list[np.ndarray], number: int) -> int:
    array = arrays[number]
    return sys.getrefcount(array)


# of an array that only its list holds: how Python counts differs from version to version
ALONE = _holders([np.empty(0)], 0)


class Buffers:
    """Gives arrays of any content; may be asked from several threads."""

    def __init__(self) -> None:
        self._kept: list[np.ndarray] = []
        self._lock = threading.Lock()

    def take(self, shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
        """An array (C order) that nobody else holds: neither itself nor, as theirs keep it alive, any view or tensor of it."""
        shape = tuple(shape)
        with self._lock:
            alike = 0
            for number in range(len(self._kept)):
                if self._kept[number].shape == shape and self._kept[number].dtype == dtype:
                    if _holders(self._kept, number) <= ALONE:
                        self._kept.append(self._kept.pop(number))  # the last used last
                        return self._kept[-1]
                    alike += 1
            array = np.empty(shape, dtype)
            if SMALLEST <= array.nbytes <= LARGEST and alike < COPIES:
                self._kept.append(array)
                while sum(one.nbytes for one in self._kept) > LARGEST:
                    self._kept.pop(0)
            return array
