"""How far a verb is, on a terminal: a bar with count and time left, on stderr, gone when it is done.  Pipes get nothing."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

Tell = Callable[..., None]


@contextlib.contextmanager
def progress(words: str, total: int | None = None) -> Iterator[Tell]:
    """Yields what is called as (done, total, words), the last two where they change."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # what is printed meanwhile stays on stdout, also where that is a pipe
    quiet = {"transient": True, "redirect_stdout": sys.stdout.isatty()}
    with Progress(*columns, console=console, disable=not console.is_terminal, **quiet) as bar:
        task = bar.add_task(words, total=total)

        def tell(done: int, total: int | None = None, words: str | None = None) -> None:
            bar.update(task, completed=done, **{k: v for k, v in {"total": total, "description": words}.items() if v})

        yield tell


@contextlib.contextmanager
def waiting(words: str) -> Iterator[None]:
    """A line on the terminal while something loads that cannot say how far it is."""
    if not sys.stderr.isatty():
        yield
        return
    print(f"{words} …", end="", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
