"""PyTorch's files that name more than tensors, read without any of it: whatever is unknown becomes a thing that does nothing.

Training programs leave much beside the weights: argument lists, histories of the log, optimisers, whole modules.  PyTorch's
reader of plain tensors stops at the first such name.  Here each is replaced by an empty class of ours, so that the tensors come
out and nothing of the file's own runs, is imported, or is looked up.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

NAMED = re.compile(r"Unsupported global: GLOBAL (\S+) was not an allowed global")
MOST = 500  # names; a checkpoint has a handful
# what only a file names that means harm: such a one is refused, harmless as it would be
HOSTILE = re.compile(
    r"(?:__builtin__|builtins|subprocess|os|posix|nt|sys|shutil|socket|pty|runpy|importlib|ctypes|code|webbrowser|urllib|"
    r"commands|pickle|marshal|types|functools|operator|timeit|threading|multiprocessing|asyncio|signal|pathlib|tempfile|"
    r"torch\.hub|torch\.jit|torch\.utils\.cpp_extension)(?:\..*)?|"
    r"(?:eval|exec|compile|getattr|setattr|open|input|breakpoint|apply|map|vars|globals|locals|delattr|__import__)"
)


class Inert:
    """Stands for an object of a class that is not here: keeps what it was given, does nothing with it."""

    def __new__(cls, *given: Any, **named: Any) -> Inert:
        made = super().__new__(cls)
        made.__dict__["given"] = given
        return made

    def __init__(self, *given: Any, **named: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update({key: value for key, value in state.items() if isinstance(key, str)})
        else:
            self.__dict__["state"] = state


def read_tensors(path: Path) -> Any:
    """What a file of `torch.save` holds, with `Inert` objects for all that is neither tensor nor plain.

    Raises pickle.UnpicklingError for a file that names what runs programs, or is no whole pickle.
    """
    _check_archive(path)
    named: dict[str, type[Inert]] = {}
    while True:
        try:
            with torch.serialization.safe_globals([(stand_in, name) for name, stand_in in named.items()]):
                loaded = torch.load(path, map_location="cpu", weights_only=True)
                return state_of(loaded) if isinstance(loaded, Inert) else loaded
        except pickle.UnpicklingError as error:
            found = NAMED.search(str(error))
            if found is None or found[1] in named or len(named) >= MOST or HOSTILE.fullmatch(found[1]):
                raise
            named[found[1]] = type("Inert", (Inert,), {})


def _check_archive(path: Path) -> None:
    """Raises ValueError for an archive whose parts are larger than it: PyTorch's are stored, and not compressed."""
    if not zipfile.is_zipfile(path):
        return
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        whole = sum(part.file_size for part in archive.infolist())
    if whole > 2 * size + 2**20:
        raise ValueError(f"an archive of {size:,} bytes that says it holds {whole:,}")


def state_of(module: Inert) -> dict[str, torch.Tensor]:
    """The state dict of a module that was saved whole."""
    state: dict[str, torch.Tensor] = {}
    waiting = [("", module)]
    seen: set[int] = set()
    while waiting:
        prefix, part = waiting.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        for kind in ("_parameters", "_buffers"):
            entries = part.__dict__.get(kind)
            for name, value in entries.items() if isinstance(entries, dict) else ():
                if isinstance(value, torch.Tensor):
                    state[f"{prefix}{name}"] = value.detach()
        inner = part.__dict__.get("_modules")
        for name, value in inner.items() if isinstance(inner, dict) else ():
            if isinstance(value, Inert):
                waiting.append((f"{prefix}{name}.", value))
    return state
