"""What PyTorch says where there is no memory, as Python says it.  Imports no torch."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

# of its allocator on processors, of C++, and of its allocators on GPUs
_SAYS = re.compile(r"DefaultCPUAllocator|enforce fail at alloc_cpu|std::bad_alloc|out of memory\. Tried to allocate")


@contextlib.contextmanager
def memory_errors() -> Iterator[None]:
    """A `with` block or decorator: PyTorch's RuntimeError for want of memory is raised as MemoryError, others as they are.

    One input that is too large is then an input that fails, as where NumPy or Pillow have no memory.
    """
    try:
        yield
    except RuntimeError as error:
        if not _SAYS.search(str(error)):
            raise
        asked = re.search(r"tried to allocate ([\d.]+ \w+)", str(error), re.IGNORECASE)
        raise MemoryError(
            "there is not enough memory" + (f": PyTorch asked for {asked[1]}" if asked else "")
        ) from error
