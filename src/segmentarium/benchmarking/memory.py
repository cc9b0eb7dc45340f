"""Peak resident memory of this process, from a chosen moment on."""

from __future__ import annotations

import sys
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def _status_mb(field: str) -> float | None:
    if not _STATUS.is_file():
        return None
    for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024 / 1e6
    return None


def resident_mb() -> float | None:
    """Memory that the process holds now, 1e6 bytes; None where the system does not tell."""
    return _status_mb("VmRSS")


def reset_peak() -> bool:
    """Lets the peak start again from here (Linux); False where it stays the peak of the whole process."""
    try:
        _CLEAR.write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def peak_mb() -> float | None:
    """The most memory the process held since `reset_peak`, or since its start, 1e6 bytes."""
    peak = _status_mb("VmHWM")
    if peak is not None:
        return peak
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
