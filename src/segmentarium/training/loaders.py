"""From options to batches: data sets, loaders, and how long they kept training waiting."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterable
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from segmentarium.contracts import Model
from segmentarium.data import (
    InfiniteSampler,
    Mosaic,
    RepeatFactorSampler,
    build_dataset,
    classes_shown,
    image_factors,
)
from segmentarium.data.catalogue import needs_folder
from segmentarium.training.options import TrainingOptions

Batch = dict[str, Any]


class DataError(ValueError):
    """What a worker process met in the data, in one line."""


def _of_a_worker(error: Exception) -> str | None:
    """The last line of what a worker sent, which holds its whole traceback; None for an error of this process."""
    if "in DataLoader worker process" not in (text := str(error).strip()):
        return None
    # of errors that came of one another the last
    text = re.split(r"\n(?:During handling of|The above exception was) [^\n]*\n", text)[-1]
    found = re.search(r"\n(?:\w+\.)*\w*(?:Error|Exception|Interrupt)\b:? ?(?P<said>.*)\Z", text, re.DOTALL)
    return " ".join(found["said"].split()) if found else text.splitlines()[-1]


class TimedLoader:
    """Iterates a loader and adds up the seconds spent waiting for it in `waited`.

    Its workers end with the iteration, however that ends: at the interpreter's exit they would be waited for without end, since
    they do not heed the signal that they get then (`_outlive_signals`).
    """

    def __init__(self, loader: Iterable[Batch]) -> None:
        self.loader = loader
        self.waited = 0.0

    def __iter__(self) -> Generator[Batch, None, None]:
        batches = iter(self.loader)
        try:
            while True:
                start = time.perf_counter()
                try:
                    batch = next(batches)
                except StopIteration:
                    return
                except Exception as error:
                    if (said := _of_a_worker(error)) is None:
                        raise
                    raise DataError(said) from None
                self.waited += time.perf_counter() - start
                yield batch
        finally:
            getattr(batches, "_shutdown_workers", lambda: None)()  # an iterator without workers has no such method


class PreparedLoader(TimedLoader):
    """Batches on the device, each finished there by `prepare`: what a network makes of them, or what would be dear to carry."""

    def __init__(self, loader: Iterable[Batch], fabric: Fabric, prepare: Callable[[Batch], Batch]) -> None:
        super().__init__(loader)
        self.fabric, self.prepare = fabric, prepare

    def __iter__(self) -> Generator[Batch, None, None]:
        with contextlib.closing(super().__iter__()) as batches:
            for batch in batches:
                yield self.prepare(self.fabric.to_device(batch))


def worker_count(options: TrainingOptions, processes: int = 1) -> int:
    """Stated, or one less than the cores that a training process has, from 1 to 8."""
    if options.workers is not None:
        return options.workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(8, cores // processes - 1))


def _outlive_signals(_: int) -> None:
    # Ctrl-C, and the SIGTERM of a cluster, reach the whole process group; the main process decides, and still needs its
    # workers for that.  A second SIGTERM is its own, to a worker that hangs.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _: signal.signal(number, signal.SIG_DFL))


def _collate(samples: list[Batch]) -> Batch:
    plain = [
        {key: value.as_subclass(Tensor) if isinstance(value, Tensor) else value for key, value in sample.items()}
        for sample in samples
    ]
    # pictures differ in how many segments they have
    segments = {"segments": [sample.pop("segments") for sample in plain]} if "segments" in plain[0] else {}
    return default_collate(plain) | segments


def open_dataset(options: TrainingOptions, split: str) -> Any:
    """The data set of the options; every reader's errors say what is wrong with the folder."""
    if not options.root and needs_folder(options.data):
        raise ValueError(f"no folder is given for the data set {options.data!r}; give root (--root DIR)")
    arguments = dict(options.data_arguments)
    channels = options.model_arguments.get("in_channels", 3)
    if options.data == "folder" and channels != 3:  # what the network takes is what the pictures must have
        arguments.setdefault("bands", channels)
    return build_dataset(options.data, options.root, split, cache=options.cache, **arguments)


def joined(options: TrainingOptions, model: Model) -> dict[str, Any]:
    """What `TrainingStream` is told of mosaics: pictures of the crop's size, or of the longer side that the model sees."""
    if not options.mosaic:
        return {}
    long_side = model.preprocessing.long_side
    size = (long_side, long_side) if long_side else options.crop_size
    return {"joining": options.mosaic, "join": Mosaic(size, mean=model.preprocessing.mean)}


def endless(
    stream: Any,
    options: TrainingOptions,
    fabric: Fabric,
    micro_batch: int,
    step: int,
    collate: Callable[[list[Batch]], Batch] | None = None,
) -> TimedLoader:
    """This process's endless batches of a stream that is asked by `InfiniteSampler`'s keys, from where `step` begins."""
    consumed = step * options.batch_size
    here = (options.seed, consumed, fabric.global_rank, fabric.world_size)
    if options.sampling == "repeat":
        factors = image_factors(classes_shown(stream.dataset), options.repeat_threshold)
        sampler: InfiniteSampler = RepeatFactorSampler(factors, *here)
    else:
        sampler = InfiniteSampler(len(stream), *here, order=getattr(getattr(stream, "dataset", None), "order", None))
    workers = worker_count(options, fabric.world_size)
    loader = DataLoader(
        stream,
        batch_size=micro_batch,
        sampler=sampler,
        num_workers=workers,
        collate_fn=collate or _collate,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_outlive_signals,
        prefetch_factor=4 if workers else None,
        # libvips's threads do not survive a fork: a worker would wait for them for ever
        multiprocessing_context="spawn" if workers and "pyvips" in sys.modules else None,
    )
    return TimedLoader(loader)
