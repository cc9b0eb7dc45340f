"""Worker processes for tests of `scale.local`: they load no model, and end as the test wants."""

from __future__ import annotations

import json
import os
import time
from multiprocessing.connection import Connection
from pathlib import Path


def serve(pipe: Connection, settings: str, number: int, workers: int) -> None:
    """Does parts by noting them in a folder; at part 1 the first worker that gets it ends, as if it were killed."""
    folder = Path(json.loads(settings)["folder"])
    pipe.send(("ready", None))
    while True:
        try:
            part = json.loads(pipe.recv())["part"]
        except EOFError:
            return
        if part == 1 and not (folder / "died").exists():
            (folder / "died").touch()
            os._exit(9)
        with (folder / f"{part}.txt").open("a") as file:
            file.write("done\n")
        pipe.send(("done", {"part": part}))


def hopeless(pipe: Connection, settings: str, number: int, workers: int) -> None:
    """Ends while it begins."""
    os._exit(3)


def endless(pipe: Connection, settings: str, number: int, workers: int) -> None:
    """Says that it has a part, and is never done with it."""
    pipe.send(("ready", None))
    pipe.recv()
    print("begun", flush=True)
    time.sleep(600)
