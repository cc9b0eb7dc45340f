"""Many requests on one machine: a bounded number of places, a few threads, and one network call for several pictures."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor

from segmentarium.contracts import MaskModel, Model, asked_task
from segmentarium.inference.predictor import WHOLE_LIMIT, ModelSource, Predictor, resolve_model
from segmentarium.inference.segments import SegmentPredictor
from segmentarium.web.limits import Limits, Refused

T = TypeVar("T")
P = TypeVar("P")
log = logging.getLogger("segmentarium.web")


class _Call:
    def __init__(self, image: Tensor) -> None:
        self.image = image
        self.result: Any = None
        self.error: BaseException | None = None


class Batches:
    """Calls from several threads, gathered: while one batch is computed the next one collects.

    run     (B, C, H, W) -> (B, K, H, W), or a tuple of tensors of B
    pixels  B H W of a batch, at most (a single call may have more)

    A thread that finds the network idle starts at once, so that a lonely picture does not wait for company.
    """

    def __init__(self, run: Callable[[Tensor], Any], pixels: int = WHOLE_LIMIT) -> None:
        self._run, self._pixels = run, pixels
        self._waiting: list[_Call] = []
        self._guard, self._busy = threading.Lock(), threading.Lock()
        self.sizes: dict[int, int] = {}  # pictures in a batch -> how many such batches there were

    def __call__(self, image: Tensor) -> Any:
        call = _Call(image)
        with self._guard:
            self._waiting.append(call)
        with self._busy:
            if call.result is None and call.error is None:
                self._compute(self._take(call))
        if call.error is not None:
            raise call.error
        assert call.result is not None
        return call.result

    def _take(self, first: _Call) -> list[_Call]:
        """`first` and the waiting calls that fit to it."""
        count, height, width = len(first.image), *first.image.shape[-2:]
        room = max(1, self._pixels // (height * width)) - count
        batch = [first]
        with self._guard:
            self._waiting.remove(first)
            for call in list(self._waiting):
                if call.image.shape[1:] == first.image.shape[1:] and len(call.image) <= room:
                    self._waiting.remove(call)
                    batch.append(call)
                    room -= len(call.image)
        return batch

    def _compute(self, batch: list[_Call]) -> None:
        try:
            images = [call.image for call in batch]
            found = self._run(torch.cat(images) if len(batch) > 1 else images[0])
            counts = [len(image) for image in images]
            several = isinstance(found, tuple)
            parts = zip(*(one.split(counts) for one in found), strict=True) if several else found.split(counts)
            for call, part in zip(batch, parts, strict=True):
                call.result = part
        except BaseException as error:  # each caller raises it in its own thread
            for call in batch:
                call.error = error
        count = sum(len(call.image) for call in batch)
        self.sizes[count] = self.sizes.get(count, 0) + 1


class SharedPredictor(Predictor):
    """A predictor for several threads at a time, whose network computes their pictures together."""

    task = "semantic"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.batches = Batches(super()._logits)
        super().__init__(*arguments, **options)
        self._others = Others(self.model, options)

    def _logits(self, image: Tensor) -> Tensor:
        return self.batches(image)

    def for_task(self, task: str | None) -> SharedPredictor | SharedSegmentPredictor:
        """The predictor of the same network for "semantic", "instance" or "panoptic"; None: this one.

        Raises ValueError for another word, and for a network that tells no segments apart.
        """
        if task is None or asked_task(self.model, task) == self.task:
            return self
        return self._others.of(SharedSegmentPredictor).for_task(task)


class SharedSegmentPredictor(SegmentPredictor):
    """The same of segments."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.network.outputs = Batches(self.network.outputs)  # type: ignore[method-assign]
        self._others = Others(self.model, {name: value for name, value in options.items() if name != "task"})

    def for_task(self, task: str | None) -> SharedPredictor | SharedSegmentPredictor:
        """As `SharedPredictor.for_task`."""
        if task is None or asked_task(self.model, task) == self.task:
            return self
        return self._others.of(SharedPredictor) if task == "semantic" else self.asked(task)


class Others:
    """The predictors of another kind of a network, made when they are first asked for."""

    def __init__(self, model: Model, options: Mapping[str, Any]) -> None:
        self._model, self._options = model, options
        self._guard = threading.Lock()
        self._made: dict[Callable[..., Any], Any] = {}

    def of(self, kind: Callable[..., P]) -> P:
        with self._guard:
            if kind not in self._made:
                made: Any = kind
                self._made[kind] = made(self._model, **self._options)
            return self._made[kind]


def shared(
    source: ModelSource, *, task: str | None = None, engine: str = "torch"
) -> SharedPredictor | SharedSegmentPredictor:
    """The predictor of a server: of segments where the model, or `task`, tells them apart."""
    model = resolve_model(source)
    wanted = asked_task(model, task) if isinstance(model, MaskModel) else "semantic"
    if wanted == "semantic":
        return SharedPredictor(model, engine=engine)
    return SharedSegmentPredictor(model, task=wanted, engine=engine)


class Place:
    """The right of one request to be read, to wait and to be computed."""

    def __init__(self, free: Callable[[], None]) -> None:
        self.job: Future[Any] | None = None
        self._free, self._kept = free, False

    def keep(self) -> Callable[[], None]:
        """The place outlives its `with` block: until what is returned here is called."""
        self._kept = True
        return self._free

    def leave(self) -> None:
        """The end of the block."""
        if self._kept:
            return
        if self.job is None:
            self._free()
        else:  # a thread cannot be stopped: its memory is in use until it ends
            self.job.add_done_callback(lambda _: self._free())


class Workshop:
    """The threads of one server and the places before them."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._taken = 0
        self._guard = threading.Lock()
        self._pool = ThreadPoolExecutor(limits.workers, "picture")
        self._seconds = 1.0  # of recent jobs, for Retry-After

    @property
    def taken(self) -> int:
        """Places in use now."""
        return self._taken

    @contextmanager
    def place(self) -> Iterator[Place]:
        """A place for the length of a `with` block, of a job that outlives it, or until it is given back (`Place.keep`).

        Refused (503) if there is none.
        """
        with self._guard:
            if self._taken >= self.limits.places:
                wait = max(1, round(self._seconds * self._taken / self.limits.workers))
                raise Refused(
                    503,
                    f"all {self.limits.places} places are taken; try again in {wait} seconds",
                    retry_after=min(wait, 60),
                )
            self._taken += 1
        place = Place(self._free)
        try:
            yield place
        finally:
            place.leave()

    def _free(self) -> None:
        with self._guard:
            self._taken -= 1

    async def run(self, place: Place, work: Callable[[], T]) -> T:
        """What `work` gives, computed in a thread.  Refused (504) after `limits.seconds`; work that has not begun is dropped."""
        place.job = self._pool.submit(self._timed, work)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(place.job), self.limits.seconds)
        except TimeoutError:
            place.job.cancel()
            raise Refused(
                504,
                f"not done within {self.limits.seconds:g} seconds; send a smaller picture, or try again later",
                retry_after=max(1, min(60, round(self._seconds))),
            ) from None

    def _timed(self, work: Callable[[], T]) -> T:
        started = time.perf_counter()
        try:
            return work()
        finally:
            self._seconds += 0.2 * (time.perf_counter() - started - self._seconds)

    def close(self) -> None:
        """Drops what waits; what is being computed ends by itself, or with the process."""
        self._pool.shutdown(wait=False, cancel_futures=True)
