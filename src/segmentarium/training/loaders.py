"""From options to batches: data sets, transforms, loaders, and how long they kept training waiting."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from segmentarium.contracts import Preprocessing, SegmentationModel
from segmentarium.data import (
    InfiniteSampler,
    SegmentationDataset,
    TrainingStream,
    build_dataset,
    eval_transform,
    train_transform,
)
from segmentarium.training.options import TrainingOptions

Batch = dict[str, Any]


class TimedLoader:
    """Iterates a loader and adds up the seconds spent waiting for it in `waited`."""

    def __init__(self, loader: Iterable[Batch]) -> None:
        self.loader = loader
        self.waited = 0.0

    def __iter__(self) -> Iterator[Batch]:
        batches = iter(self.loader)
        while True:
            start = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            self.waited += time.perf_counter() - start
            yield batch


def worker_count(options: TrainingOptions, processes: int = 1) -> int:
    """Stated, or one less than the cores that a training process has, from 1 to 8."""
    if options.workers is not None:
        return options.workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(8, cores // processes - 1))


def _ignore_interrupt(_: int) -> None:
    # Ctrl-C reaches the whole process group; the main process decides, and still needs its workers for that.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _collate(samples: list[Batch]) -> Batch:
    keep = [{key: sample[key] for key in ("image", "mask", "name")} for sample in samples]
    for sample in keep:
        for key in ("image", "mask"):
            sample[key] = sample[key].as_subclass(Tensor)
    return default_collate(keep)


def _as_list(samples: list[Batch]) -> list[Batch]:
    return [
        {"image": s["image"].as_subclass(Tensor), "mask": s["mask"].as_subclass(Tensor), "name": s["name"]}
        for s in samples
    ]


def training_dataset(options: TrainingOptions, split: str | None = None) -> SegmentationDataset:
    """The data set of the options; every reader's errors say what is wrong with the folder."""
    if not options.root:
        raise ValueError(f"no folder is given for the data set {options.data!r}; give root (--root DIR)")
    arguments = dict(options.data_arguments)
    dataset = build_dataset(options.data, options.root, split or options.train_split, cache=options.cache, **arguments)
    if not isinstance(dataset, SegmentationDataset):
        raise ValueError(
            f"data set {options.data!r} has a class for each picture, none for each pixel; give --data folder, …"
        )
    return dataset


def training_loader(
    dataset: SegmentationDataset,
    preprocessing: Preprocessing,
    options: TrainingOptions,
    *,
    micro_batch: int,
    step: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> TimedLoader:
    """Endless batches {"image" (B, 3, H, W), "mask" (B, H, W), "name"} that begin where step `step` begins."""
    transform = train_transform(
        options.crop_size,
        options.scale,
        0.5 if options.flip else 0.0,
        options.photometric,
        options.max_class_ratio,
        options.rotate,
        preprocessing.mean,
        preprocessing.std,
        long_side=preprocessing.long_side,
    )
    sampler = InfiniteSampler(len(dataset), options.seed, step * options.batch_size, rank, world_size)
    workers = worker_count(options, world_size)
    loader = DataLoader(
        TrainingStream(dataset, transform, options.seed, options.class_mix),
        batch_size=micro_batch,
        sampler=sampler,
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_ignore_interrupt,
        prefetch_factor=4 if workers else None,
    )
    return TimedLoader(loader)


class _Share(Dataset[Batch]):
    """Every `world_size`-th item, from `rank` on."""

    def __init__(self, dataset: SegmentationDataset, rank: int, world_size: int) -> None:
        self.dataset, self.indices = dataset, range(rank, len(dataset), world_size)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Batch:
        return self.dataset[self.indices[index]]


def validation_loader(
    dataset: SegmentationDataset,
    model: SegmentationModel,
    options: TrainingOptions,
    *,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
) -> DataLoader:
    """Lists of samples at their own sizes, normalised; each process gets its share of the data set."""
    dataset.transform = eval_transform(model.preprocessing.mean, model.preprocessing.std)
    return DataLoader(
        _Share(dataset, rank, world_size),
        batch_size=batch_size,
        num_workers=worker_count(options, world_size),
        collate_fn=_as_list,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_ignore_interrupt,
    )
