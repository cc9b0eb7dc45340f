"""What makes the command line faster: settings of memory that a library must not touch."""

from __future__ import annotations

import ctypes
import gc
import importlib
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


def import_torch() -> None:
    """Imports PyTorch, a second faster: the some hundred thousand objects that it makes stay, and none is looked at for garbage,
    neither while they are made nor when the program ends."""
    gc.disable()
    try:
        importlib.import_module("torch")
    finally:
        gc.enable()
    gc.freeze()
