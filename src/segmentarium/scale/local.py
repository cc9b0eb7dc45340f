"""Workers that are processes of this machine.

A process that ends takes its part with it, no more: another one is started, which does that part again.  Where this process ends,
its workers end at once: who calls the job again does their parts, and two must not write the same pictures.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any

from segmentarium.scale.manifest import DEATHS, Part

Serve = Callable[[Connection, str, int, int], None]


def serve(pipe: Connection, settings: str, number: int, workers: int) -> None:
    """What a worker process runs: ("ready", None), then for each part ("done", record) or ("failed", why)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; who started it ends it
    try:
        import json

        import torch

        from segmentarium.scale.work import worker_of

        told = json.loads(settings)
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
        if told["device"] in (None, "cuda") and torch.cuda.is_available():  # the GPUs in turn
            told["device"] = f"cuda:{number % torch.cuda.device_count()}"
        worker = worker_of(json.dumps(told))
        pipe.send(("ready", None))
        while True:
            pipe.send(("done", worker.do(Part.from_json(pipe.recv()))))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except Exception as error:
        with suppress(OSError):
            pipe.send(("failed", f"{type(error).__name__}: {error}"))


def _work(serve: Serve, *given: Any) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    serve(*given)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


class _Process:
    """A worker, and the part that it has."""

    def __init__(self, serve: Serve, settings: str, number: int, workers: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.number = number
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=_work, args=(serve, other, settings, number, workers), daemon=True)
        self.process.start()
        other.close()
        self.ready, self.part = False, None

    part: Part | None

    def give(self, parts: deque[Part]) -> None:
        self.part = parts.popleft() if parts else None
        if self.part is not None:
            with suppress(BrokenPipeError):  # it has ended: seen by the next look at its pipe
                self.pipe.send(self.part.to_json())

    def end(self) -> None:
        self.pipe.close()
        self.process.terminate()
        self.process.join()


def run(settings: str, parts: Sequence[Part], workers: int, serve: Serve = serve) -> Iterator[dict[str, Any]]:
    """The record of each part, as they are done, by so many processes.

    ChildProcessError where a worker cannot begin, or where what is no picture's fault went wrong.
    """
    waiting, deaths = deque(parts), Counter[int]()
    count = min(workers, len(parts))
    running = [_Process(serve, settings, number, count) for number in range(count)]
    try:
        while any(one.part is not None or (waiting and not one.ready) for one in running):
            for pipe in wait([one.pipe for one in running]):
                worker = next(one for one in running if one.pipe is pipe)
                try:
                    kind, content = worker.pipe.recv()
                except (EOFError, OSError):
                    running.remove(worker)
                    part = worker.part
                    worker.end()
                    if part is None and worker.ready and running:
                        continue  # it had nothing to do
                    if part is None:
                        raise ChildProcessError(
                            f"a worker ended while it began, with code {worker.process.exitcode}"
                        ) from None
                    deaths[part.number] += 1
                    if deaths[part.number] > DEATHS * len(part.pictures) + 1:
                        raise ChildProcessError(
                            f"workers end at part {part.number}, whatever is left out of it"
                        ) from None
                    waiting.appendleft(part)
                    running.append(_Process(serve, settings, worker.number, count))
                    continue
                if kind == "failed":
                    raise ChildProcessError(f"a worker failed: {content}")
                if kind == "done":
                    yield content
                worker.ready = True
                worker.give(waiting)
    finally:
        for one in running:
            one.end()
