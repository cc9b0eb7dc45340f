"""What a worker does: a model that is loaded once, and parts of the job, one after the other.

Threads read, decode and write while the network computes.  A part that a process did not survive is done again with care, picture
by picture, and the one at which processes end is passed over: a file that brings down its decoder, or asks for more memory than
there is, ends no job.
"""

from __future__ import annotations

import io
import json
import os
import platform
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from segmentarium.data.bands import picture_array, picture_size
from segmentarium.data.image_io import ImageReadError, read_image
from segmentarium.files import shown
from segmentarium.inference.predictor import Predictor, Tile, resolve_model
from segmentarium.scale.listing import Picture, beside, row_bytes
from segmentarium.scale.manifest import DEATHS, Manifest, Part
from segmentarium.scale.outputs import PLACES, class_segments, lines, mask_file, result_segments, table
from segmentarium.scale.stores import Store, local_path, read_bytes, store_of
from segmentarium.wording import said

STAGES: tuple[str, ...] = ("read", "decode", "predict", "write")
HOPELESS = 8  # pictures of a part that were read, none of which could be predicted: no fault of theirs
# of one picture; what else is raised is an error of the program
BAD = (ValueError, TypeError, OSError, MemoryError, RuntimeError)


@dataclass(frozen=True)
class Settings:
    """What a worker is told, as plain values: it may be another machine's.  See `batch`."""

    model: str
    out: str
    kind: str = "masks"
    task: str = "semantic"
    threshold: float | None = None
    engine: str = "torch"
    precision: str = "fp32"
    device: str | None = None
    tile: Tile = "auto"
    batch_size: int = 8
    threads: int = 1
    column: str | None = None
    max_pixels: int = 2**27

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class _Read:
    """A picture on its way: its place in the part, its pixels or what is wrong with it, and what reading it took."""

    index: int
    pixels: np.ndarray | None
    problem: str | None
    seconds: dict[str, float]


class Worker:
    """Does parts of a job.

    model   one that is loaded already; None: `settings.model` is loaded
    """

    def __init__(self, settings: Settings, model: Any = None) -> None:
        self.settings = settings
        self.manifest = Manifest(Store(settings.out))
        self.batch_size = settings.batch_size
        loaded = resolve_model(settings.model) if model is None else model
        options: dict[str, Any] = {
            "engine": settings.engine,
            "precision": settings.precision,
            "device": settings.device,
            "tile": settings.tile,
        }
        self.segments = settings.task != "semantic"
        self.predictor: Any
        if self.segments:
            from segmentarium.inference.segments import SegmentPredictor

            self.predictor = SegmentPredictor(loaded, task=settings.task, threshold=settings.threshold, **options)
        else:
            self.predictor = Predictor(loaded, batch_size=settings.batch_size, **options)

    def do(self, part: Part) -> dict[str, Any]:
        """Does a part and records it.  What is given: part, done, failed, problems, the seconds of each stage, and who did it.

        Raises OSError where results cannot be written, and ValueError where the network fails at every picture.
        """
        attempt = self.manifest.begin(part.number)
        state, again = _State(part), attempt.times > 1 or part.before is not None
        todo = []
        for index, (_, name, _) in enumerate(part.pictures):
            if attempt.deaths.get(index, 0) >= DEATHS:
                state.problems[index] = f"the process that worked on it ended, {DEATHS} times"
            elif again and self.settings.kind == "masks" and self._there(name):
                state.done += 1  # by the attempt before
            else:
                todo.append(index)
        with ThreadPoolExecutor(self.settings.threads, "pictures") as pool:
            if attempt.times > 1:
                for index in todo:
                    self.manifest.at(part.number, attempt, index)
                    for read in self._pictures(part, [index], pool):
                        self._take(state, [read], pool)
                    state.settle(0)
            else:
                for group in self._groups(part, todo, pool):
                    self._take(state, group, pool)
                    state.settle(4 * self.settings.threads)
                state.settle(0)
        if state.hopeless >= HOPELESS and not state.done:
            raise ValueError(
                f"none of {state.hopeless} pictures could be predicted: {next(iter(state.problems.values()))}"
            )
        return self._end(state)

    def _there(self, name: str) -> bool:
        return self.manifest.store.exists(PLACES["masks"] % name)

    def _end(self, state: _State) -> dict[str, Any]:
        started, part = time.perf_counter(), state.part
        if self.settings.kind != "masks":
            rows = [state.rows[index] for index in sorted(state.rows)]
            content = lines(rows) if self.settings.kind == "rle" else table(rows)
            self.manifest.store.write(PLACES[self.settings.kind] % f"{part.number:06d}", content)
        state.seconds["write"] += time.perf_counter() - started
        problems = [
            {"source": part.pictures[index][0], "name": part.pictures[index][1], "problem": state.problems[index]}
            for index in sorted(state.problems)
        ]
        record = {"part": part.number, "done": state.done, "failed": len(problems), "problems": problems}
        self.manifest.end(part, record)
        seconds = {stage: round(taken, 4) for stage, taken in state.seconds.items()}
        return record | {"seconds": seconds, "worker": f"{platform.node()} {os.getpid()}"}

    # reading ----------------------------------------------------------------------------------------------------------

    def _groups(self, part: Part, todo: list[int], pool: ThreadPoolExecutor) -> Iterator[list[_Read]]:
        """Pictures of one size each, as many as go through the network together; those that cannot be read one by one."""
        waiting: dict[tuple[int, ...], list[_Read]] = {}
        for read in self._pictures(part, todo, pool):
            if read.pixels is None:
                yield [read]
                continue
            group = waiting.setdefault(read.pixels.shape, [])
            group.append(read)
            if len(group) >= self.batch_size:
                yield waiting.pop(read.pixels.shape)
            elif sum(map(len, waiting.values())) >= 4 * self.batch_size:  # many sizes: memory is bounded
                yield waiting.pop(max(waiting, key=lambda shape: len(waiting[shape])))
        yield from waiting.values()

    def _pictures(self, part: Part, todo: list[int], pool: ThreadPoolExecutor) -> Iterator[_Read]:
        """The pictures in their order, some of them read ahead."""
        ahead: deque[Future[_Read]] = deque()
        for index, content, problem, seconds in self._contents(part, todo):
            ahead.append(pool.submit(self._read, index, part.pictures[index], content, problem, seconds))
            if len(ahead) > self.settings.threads + self.batch_size:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()

    def _contents(self, part: Part, todo: list[int]) -> Iterator[tuple[int, bytes | str | None, str | None, float]]:
        """(index, bytes or a path where they stand in a table, what is wrong with it, seconds that reading it took)"""
        tables: dict[str, dict[int, int]] = {}
        for index in todo:
            source, _, row = part.pictures[index]
            if row is None:
                yield index, None, None, 0.0
            else:
                tables.setdefault(source, {})[row] = index
        for source, index_of in tables.items():
            started = time.perf_counter()
            try:
                for row, content in row_bytes(source, self.settings.column, list(index_of)):
                    problem = None if content else f"row {row} has no bytes and no path"
                    yield index_of.pop(row), content, problem, time.perf_counter() - started
                    started = time.perf_counter()  # what is done with the row in between is no reading
                problem = "the table has fewer rows than when it was listed"
            except (OSError, ValueError) as error:  # pyarrow's are among them
                problem = f"{shown(source)} cannot be read: {error}"
            yield from ((index, None, problem, 0.0) for index in index_of.values())

    def _read(
        self, index: int, picture: Picture, content: bytes | str | None, problem: str | None, taken: float
    ) -> _Read:
        """content: its bytes, or its path where a table of bytes has that alone; taken: seconds that reading it took already"""
        seconds = dict.fromkeys(STAGES, 0.0) | {"read": taken}
        if problem is not None:
            return _Read(index, None, problem, seconds)
        source, name, _ = picture
        started = time.perf_counter()
        try:
            if isinstance(content, str):
                source, content = beside(source, content), None
            if content is None and store_of(source) is not None:
                content = read_bytes(source)
                seconds["read"] += time.perf_counter() - started
                started = time.perf_counter()
            pixels = self._decoded(source, name, content)
        except BAD as error:
            return _Read(index, None, said(error), seconds)
        seconds["decode"] = time.perf_counter() - started
        return _Read(index, pixels, None, seconds)

    def _decoded(self, source: str, name: str, content: bytes | None) -> np.ndarray:
        bits = self.predictor.preprocessing.bits
        if content is None:
            path = local_path(source)
            if path.exists() and not path.is_file():  # a pipe would be waited for, without an end
                raise ImageReadError("it is a folder, pipe or device; expected a file")
            width, height = picture_size(path)
            if width * height > self.settings.max_pixels:
                raise ImageReadError(
                    f"{width} x {height} pixels are more than the {self.settings.max_pixels:,} allowed; take "
                    "`segmentarium segment`, which reads large pictures in rows, or raise max_pixels (--max-pixels)"
                )
            return picture_array(path, bits=bits)
        if not content:
            raise ImageReadError("it is empty; expected the bytes of a picture")
        stream = io.BytesIO(content)
        stream.name = name
        return np.asarray(read_image(stream, self.settings.max_pixels, bits=bits))

    # computing and writing --------------------------------------------------------------------------------------------

    def _take(self, state: _State, group: list[_Read], pool: ThreadPoolExecutor) -> None:
        """Predicts pictures of one size and hands them on to be written."""
        for read in group:
            for stage in ("read", "decode"):
                state.seconds[stage] += read.seconds[stage]
        if group[0].pixels is None:
            state.problems[group[0].index] = group[0].problem or ""
            return
        started = time.perf_counter()
        found = self._predicted(state, group)
        state.seconds["predict"] += time.perf_counter() - started
        for index, result in found:
            state.writing.append((index, pool.submit(self._finish, state.part.pictures[index], result)))

    def _predicted(self, state: _State, group: list[_Read]) -> list[tuple[int, Any]]:
        try:
            if self.segments:
                return [(read.index, self.predictor(read.pixels)) for read in group]
            masks = self.predictor.masks([read.pixels for read in group])
            return [(read.index, mask) for read, mask in zip(group, masks, strict=True)]
        except BAD as error:
            if len(group) == 1:
                state.problems[group[0].index] = said(error)
                state.hopeless += 1
                return []
        found = [one for read in group for one in self._predicted(state, [read])]
        if found:  # a network of a fixed batch, or too little memory for so many: not tried again
            self.batch_size = max(1, len(group) // 2)
        return found

    def _finish(self, picture: Picture, result: Any) -> tuple[dict[str, Any] | None, float]:
        """The row of a picture, or None where its file is written; and the seconds that it took."""
        started = time.perf_counter()
        source, name, row = picture
        mask = result.mask if self.segments else result
        if self.settings.kind == "masks":
            self.manifest.store.write(PLACES["masks"] % name, mask_file(mask, self.predictor.palette))
            return None, time.perf_counter() - started
        height, width = mask.shape
        segments = result_segments(result) if self.segments else class_segments(mask, self.predictor.classes)
        told = {"source": source if row is None else f"{source}#{row}", "name": name, "height": height, "width": width}
        return told | {"segments": segments}, time.perf_counter() - started


class _State:
    """A part in the making."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.done = self.hopeless = 0
        self.rows: dict[int, dict[str, Any]] = {}
        self.problems: dict[int, str] = {}
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.writing: deque[tuple[int, Future[tuple[dict[str, Any] | None, float]]]] = deque()

    def settle(self, most: int) -> None:
        """Waits until at most so many results are still to be written."""
        while len(self.writing) > most:
            index, future = self.writing.popleft()
            try:
                row, seconds = future.result()
            except (IsADirectoryError, NotADirectoryError, FileExistsError) as error:  # names of others are in its way
                self.problems[index] = f"no file can be made for it: {error}"
                continue
            self.seconds["write"] += seconds
            self.done += 1
            if row is not None:
                self.rows[index] = row


def worker_of(settings: str) -> Worker:
    """A worker of its settings as JSON."""
    return Worker(Settings(**json.loads(settings)))
