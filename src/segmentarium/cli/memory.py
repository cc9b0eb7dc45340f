"""What makes the command line faster: settings of memory that a library must not touch."""

from __future__ import annotations

import ctypes
import gc
import importlib
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -3, -4, -8  # of glibc's malloc.h


def keep_freed_memory() -> bool:
    """Tells glibc to keep freed memory instead of returning it to the system; True where that worked.

    By default every large tensor is mapped and unmapped anew, and each of its pages faults on the first write, which can
    cost as much as the network itself.  Only the command line does this: a library must not change its host's allocator.
    """
    return _tell({_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: 2**31 - 1})


def share_freed_memory() -> bool:
    """The same for a process of many threads that lasts, a server: True where that worked.

    glibc gives each thread a heap of its own, and each keeps the most that it ever needed.  Here all share two, each of which
    keeps 64 MB at the most; blocks above 32 MB go back to the system at once.
    """
    return _tell({_M_ARENA_MAX: 2, _M_MMAP_THRESHOLD: 2**25, _M_TRIM_THRESHOLD: 2**26})


def _tell(settings: dict[int, int]) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # musl has none
        return False
    done = [mallopt(what, value) for what, value in settings.items()]
    return all(done)


def import_torch() -> None:
    """Imports PyTorch, a second faster: the some hundred thousand objects that it makes stay, and none is looked at for garbage,
    neither while they are made nor when the program ends."""
    gc.disable()
    try:
        importlib.import_module("torch")
    finally:
        gc.enable()
    gc.freeze()
