"""Errors in the words of a terminal."""

from __future__ import annotations

import os

from segmentarium.files import shown


def said(error: BaseException) -> str:
    """What is to be told of an error: its message, printable; of the system's errors the file and what is wrong with it."""
    if isinstance(error, KeyError) and error.args:  # its str() is the repr of its message
        text = str(error.args[0])
    elif isinstance(error, OSError) and error.filename is not None and error.strerror:
        text = f"{os.fspath(error.filename)}: {error.strerror}"
    else:
        nothing = "there is not enough memory" if isinstance(error, MemoryError) else type(error).__name__
        text = str(error) or nothing
    return "\n".join(map(shown, text.splitlines()))


def problem(origin: str, error: BaseException) -> str:
    """What is told of an input that could not be done: one line, its name and what `said` says of the error."""
    message = said(error).replace("\n", " ")
    return message if shown(origin) in message else f"{shown(origin)}: {message}"
