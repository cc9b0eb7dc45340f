"""What is looked at before a run: do the data, the options and the model go together?"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from segmentarium.data import SegmentationDataset
from segmentarium.data.bands import picture_size
from segmentarium.files import atomic_write, cache_folder
from segmentarium.training.options import TrainingOptions

LOOKED_AT = 16  # pairs of each split


def check_labels(dataset: SegmentationDataset, split: str) -> Iterator[str]:
    """Reads the first pairs of a split, and all labels; yields a line for each thing worth knowing.

    Raises the data set's own errors: an unreadable file, a mask of another size, labels outside the classes.  What the labels
    hold is remembered until a file changes.  The data doctor (`segmentarium check-data`) reads all pictures, too, and tells more.
    """
    if not len(dataset):
        raise ValueError(
            f"split {split!r} of data set {dataset.info.name!r} has no images; there is nothing to train on"
        )
    for index in range(min(LOOKED_AT, len(dataset))):
        dataset.load(index)
    classes = dataset.info.classes
    if any(item.mask is not None for item in dataset.items):
        counts = count_values(dataset)[: max(len(classes), 2)].tolist()
        there = [index for index, count in enumerate(counts) if count]
        unseen = [name for name, count in zip(classes, counts, strict=False) if not count]
        if not there:
            yield (
                f"warning: the masks of split {split!r} have no labelled pixel at all; "
                "is the colour or value map right? See `segmentarium check-data`"
            )
        elif len(there) == 1 and len(counts) > 1:
            only = classes[there[0]] if there[0] < len(classes) else there[0]
            yield (
                f"warning: all labels of split {split!r} are {only!r}: a network would learn to say nothing else; "
                "is the colour or value map right?"
            )
        elif unseen:
            yield f"warning: no label of split {split!r} is {', '.join(unseen[:6])}{', …' if len(unseen) > 6 else ''}"
    for files, what in (
        (dataset.missing_masks, "pictures have no mask and are left out"),
        (dataset.stray_masks, "masks have no picture and are left out"),
        (dataset.left_out, "files beside them are neither picture nor mask"),
    ):
        if files:
            shown = ", ".join(path.name for path in files[:3]) + (", …" if len(files) > 3 else "")
            yield f"warning: of split {split!r} {len(files)} {what}: {shown}"


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
    if all(item.mask is None for item in dataset.items):
        raise ValueError(f"data set {dataset.info.name!r} has no masks to take class weights from")
    return torch.from_numpy(count_values(dataset)[: dataset.info.num_classes].copy())


def count_values(dataset: SegmentationDataset) -> np.ndarray:
    """(256,) int64 pixels of each label over all masks, read in threads; remembered in the user's cache until a file changes.

    Raises the data set's own errors, also where a picture's file says another size than its mask has.
    """
    items = [item for item in dataset.items if item.mask is not None]
    stored = _counts_file([file for item in items for file in (item.image, item.mask) if file is not None], dataset)
    if stored.is_file():
        with suppress(ValueError, OSError):
            return np.array(json.loads(stored.read_text(encoding="utf-8")), np.int64)

    def count(index: int) -> np.ndarray:
        labels = dataset.read_label(dataset.items[index])
        width, height = picture_size(dataset.items[index].image)
        if labels.shape != (height, width):
            dataset.load(index)  # which raises, unless the picture is turned
        return np.bincount(labels.reshape(-1), minlength=256)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        places = [index for index, item in enumerate(dataset.items) if item.mask is not None]
        total = np.sum(list(_shown(pool.map(count, places), len(places))), axis=0)
    with suppress(OSError), atomic_write(stored) as temporary:  # a cache that cannot be written only costs time
        temporary.write_text(json.dumps(total.tolist()), encoding="utf-8")
    return total


def _shown(counts: Iterator[np.ndarray], number: int) -> Iterator[np.ndarray]:
    """The same, with a bar on the terminal of the first process, which is gone afterwards."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    silent = not console.is_terminal or os.environ.get("LOCAL_RANK", "0") != "0"
    yield from track(counts, "reading labels", number, console=console, transient=True, disable=silent)


def _counts_file(files: list[Path], dataset: SegmentationDataset) -> Path:
    """Where the counts of these files lie.  Some may not be there: of YOLO's, a picture without an object has no text file."""
    digest = hashlib.blake2b(repr((2, dataset.encoding, dataset.info.classes)).encode(), digest_size=12)
    for path in files:
        written = ""
        with suppress(FileNotFoundError):
            status = path.stat()
            written = f"{status.st_size}\0{status.st_mtime_ns}"
        digest.update(f"{path.resolve()}\0{written}\n".encode())
    return cache_folder() / f"label-counts-{digest.hexdigest()}.json"
