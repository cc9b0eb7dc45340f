"""What is looked at before a run: do the data, the options and the model go together?"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from segmentarium.data import SegmentationDataset, read_mask
from segmentarium.files import atomic_write, cache_folder
from segmentarium.labels import IGNORE_INDEX
from segmentarium.training.options import TrainingOptions

LOOKED_AT = 16  # pairs of each split


def check_labels(dataset: SegmentationDataset, split: str) -> Iterator[str]:
    """Reads the first pairs of a split; yields a line for each thing worth knowing.

    Raises the data set's own errors: an unreadable file, a mask of another size, labels outside the classes.  The data
    doctor (`segmentarium check-data`) reads all files and tells more.
    """
    if not len(dataset):
        raise ValueError(
            f"split {split!r} of data set {dataset.info.name!r} has no images; there is nothing to train on"
        )
    number = min(LOOKED_AT, len(dataset))
    counts = np.zeros(256, np.int64)
    for index in range(number):
        counts += np.bincount(dataset.load(index)[1].reshape(-1), minlength=256)
    if not counts[:IGNORE_INDEX].any():
        yield (
            f"warning: the first {number} masks of split {split!r} have no labelled pixel at all; "
            "is the colour or value map right? See `segmentarium check-data`"
        )
    if dataset.missing_masks:
        yield f"warning: {len(dataset.missing_masks)} images of split {split!r} have no mask and are left out"


def check_fit(model: nn.Module, options: TrainingOptions, micro_batch: int, processes: int) -> None:
    """Raises ValueError for what could only fail later, or silently go wrong.

    A batch of one under batch normalisation, weights averaged under sharding.
    """
    has_norm = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
    seen_together = micro_batch * (processes if torch.cuda.is_available() else 1)  # SyncBN is made for GPUs only
    if has_norm and seen_together == 1:
        raise ValueError(
            "a forward pass would see one crop, but the model has batch normalisation, which needs two or more; "
            "give --batch-size 2 (and --micro-batch 2) or more"
        )
    if options.ema and options.strategy == "fsdp":
        raise ValueError("strategy 'fsdp' shards the weights, which cannot be averaged in each process; give --ema 0")
    if options.precision == "fp16" and not (torch.cuda.is_available() or torch.backends.mps.is_available()):
        raise ValueError("precision fp16 needs a GPU; on this machine use bf16 or 32")


def divide_batch(options: TrainingOptions, processes: int) -> tuple[int, int]:
    """(crops in one forward pass of one process, passes in one step) for the effective batch.

    Raises ValueError where the effective batch is no multiple of a forward pass over all processes.
    """
    micro = options.micro_batch or max(options.batch_size // processes, 1)
    accumulation, rest = divmod(options.batch_size, micro * processes)
    if rest or not accumulation:
        raise ValueError(
            f"an effective batch of {options.batch_size} cannot be made of {micro} crops in each of {processes} "
            f"process(es); give batch_size as a multiple of {micro * processes}, or another micro_batch"
        )
    return micro, accumulation


def count_labels(dataset: SegmentationDataset) -> Tensor:
    """(K,) int64 pixels of each class over all masks; remembered in the user's cache until a file changes."""
    masks = [item.mask for item in dataset.items if item.mask is not None]
    if not masks:
        raise ValueError(f"data set {dataset.info.name!r} has no masks to take class weights from")
    stored = _counts_file(masks, dataset)
    if stored.is_file():
        return torch.tensor(json.loads(stored.read_text(encoding="utf-8")))

    def count(path: Path) -> np.ndarray:
        return np.bincount(read_mask(path, dataset.encoding).reshape(-1), minlength=256)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        total = np.sum(list(pool.map(count, masks)), axis=0)[: dataset.info.num_classes]
    try:
        with atomic_write(stored) as temporary:
            temporary.write_text(json.dumps(total.tolist()), encoding="utf-8")
    except OSError:
        pass  # a cache that cannot be written only costs time
    return torch.from_numpy(total)


def _counts_file(masks: list[Path], dataset: SegmentationDataset) -> Path:
    digest = hashlib.blake2b(repr(dataset.encoding).encode(), digest_size=12)
    for path in masks:
        status = path.stat()
        digest.update(f"{path.resolve()}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return cache_folder() / f"label-counts-{digest.hexdigest()}.json"
