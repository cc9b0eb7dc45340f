"""The allocator setting that makes inference on a CPU up to twice as fast."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_freed_memory() -> bool:
    """Tells glibc to keep freed memory instead of returning it to the system; True where that worked.

    By default every large tensor is mapped and unmapped anew, and each of its pages faults on the first write, which can
    cost as much as the network itself.  Only the command line does this: a library must not change its host's allocator.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # musl has none
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
