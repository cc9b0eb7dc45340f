"""How far a verb is, on a terminal: bars with count and time left, on stderr.  Pipes get nothing."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

Tell = Callable[..., None]


class _Silent:
    """A `Progress` for pipes: shows nothing, and imports nothing."""

    def __enter__(self) -> _Silent:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __getattr__(self, name: str) -> Callable[..., int]:
        return lambda *_, **__: 0


def bars(*more: Callable[[], ProgressColumn], **options: Any) -> Progress:
    """rich's `Progress`, of any number of bars, on stderr; nothing where that is no terminal.

    more      make columns before the time left
    options   of rich's
    """
    if not sys.stderr.isatty():
        return _Silent()  # type: ignore[return-value]
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    # names of files are no markup
    words = TextColumn("{task.description}", markup=False)
    columns = (words, BarColumn(), MofNCompleteColumn(), *(make() for make in more), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), **options)


@contextlib.contextmanager
def progress(words: str, total: int | None = None) -> Iterator[Tell]:
    """One bar that is gone afterwards; yields what is called as (done, total, words), the last two where they change."""
    # what is printed meanwhile stays on stdout, also where that is a pipe
    with bars(transient=True, redirect_stdout=sys.stdout.isatty()) as bar:
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
