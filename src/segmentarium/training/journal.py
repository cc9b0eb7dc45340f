"""The run's log: CSV files, TensorBoard, and lines or a bar on the terminal."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from segmentarium.files import atomic_write
from segmentarium.inference.engines import device_name
from segmentarium.training.loaders import worker_count
from segmentarium.training.tasks import Evaluation

if TYPE_CHECKING:
    from segmentarium.training.loop import Training

DATA_SHARE_TO_NAME = 0.3  # of a step's time, from which on the log says that data is the bottleneck


class Journal:
    """Only the first of several processes writes.

    continued   the run was resumed: what the files say of later steps is forgotten, they come again
    """

    def __init__(self, training: Training, *, continued: bool) -> None:
        self.folder, self.writes = training.folder, training.fabric.is_global_zero
        self.total = training.options.max_steps
        self.begins_behind = training.step if continued else -1
        self.known: set[str] = set()
        self.console = Console(quiet=not self.writes)
        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            TextColumn("{task.fields[news]}"), console=self.console,
            disable=not (self.writes and self.console.is_terminal),
        )  # fmt: skip
        self.row = self.bar.add_task("training", total=self.total, completed=training.step, news="")
        self.tensorboard: Any = None
        self.step, self.waited, self.since, self.paused = training.step, 0.0, time.perf_counter(), 0.0
        self.bottleneck_named = False

    def __enter__(self) -> Journal:
        if self.writes:
            from torch.utils.tensorboard import SummaryWriter

            self.tensorboard = SummaryWriter(self.folder / "tensorboard")
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()
        if self.tensorboard is not None:
            self.tensorboard.close()

    def say(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def start_clock(self, training: Training) -> None:
        """What is reported next is measured from here on."""
        self.step, self.waited, self.since, self.paused = (
            training.step,
            training.loader.waited,
            time.perf_counter(),
            0.0,
        )

    @contextmanager
    def pause(self) -> Iterator[Callable[[], float]]:
        """What is done inside is no part of a step's time; gives the seconds that it has taken so far."""
        started = time.perf_counter()
        yield lambda: time.perf_counter() - started
        self.paused += time.perf_counter() - started

    def report(self, training: Training, losses: Mapping[str, float]) -> None:
        """Losses, rate, speed; and where the time goes if it is not the network."""
        options = training.options
        steps, seconds = training.step - self.step, time.perf_counter() - self.since - self.paused
        waited = training.loader.waited - self.waited
        rate = max(group["lr"] for group in training.optimizer.param_groups)
        values = {
            **losses,
            "learning_rate": rate,
            "samples_per_second": steps * options.batch_size / seconds,
            "step_seconds": seconds / steps,
            "data_seconds": waited / steps,
        }
        self.write("train", training.step, values)
        news = f"loss {losses['loss']:.4f}  rate {rate:.2e}  {values['samples_per_second']:.1f} samples/s"
        news += f"  step {seconds / steps:.3f} s (data {waited / steps:.3f} s)"
        self.bar.update(self.row, completed=training.step, news=news)
        if self.bar.disable:
            self.say(f"step {training.step}/{self.total}  {news}")
        if waited > DATA_SHARE_TO_NAME * seconds and not self.bottleneck_named:
            self.bottleneck_named = True
            self.say(
                f"bottleneck: data. {waited / seconds:.0%} of each step is spent waiting for it; "
                "try more --workers, --cache, smaller images on disk, or fewer augmentations"
            )
        self.start_clock(training)

    def evaluated(self, training: Training, found: Evaluation, better: bool, seconds: float) -> None:
        """Scores, and at the start of a run whether they make one doubt the labels."""
        self.write("val", training.step, found.row)
        said = f"step {training.step}: {training.options.val_split} {found.line}  ({seconds:.1f} s)"
        self.say(said + ("  best so far" if better else ""))
        if found.doubt and training.step == 0:
            self.say(
                f"warning: the weights that training starts from score next to nothing: {found.doubt} "
                "(where a part of the network is new, such as its head, that is as it must be)"
            )

    def write(self, kind: str, step: int, values: Mapping[str, float | None]) -> None:
        """A row of KIND.csv, and the same values in TensorBoard."""
        if not self.writes:
            return
        path = self.folder / f"{kind}.csv"
        row = {"step": step, **values}
        if kind not in self.known:
            self.known.add(kind)
            forget_after(path, self.begins_behind)
            if not path.exists():
                with path.open("w", newline="", encoding="utf-8") as file:
                    csv.writer(file).writerow(row)
        with path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(["" if value is None else f"{value:.6g}" for value in row.values()])
        for key, value in values.items():
            if value is not None:
                self.tensorboard.add_scalar(f"{kind}/{key}", value, step)


def forget_after(path: Path, step: int) -> None:
    """Drops the rows of steps after `step`, and the file if none is left."""
    if not path.exists():
        return
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    kept = [row for row in rows if row and float(row[0]) <= step]
    if not kept:
        path.unlink()
    elif len(kept) < len(rows):
        with atomic_write(path, plain=True) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *kept])


def header(training: Training) -> list[str]:
    """The lines that a run begins with."""
    options, task, info = training.options, training.task, training.task.train_set.info
    processes = training.fabric.world_size
    parameters = sum(parameter.numel() for parameter in training.model.parameters()) / 1e6
    height, width = task.crop_size
    epochs = options.max_steps * options.batch_size / len(task.train_set)
    classes = f", {len(info.classes)} classes" if info.classes else ""
    return [
        f"model      {options.model}, {parameters:.3f} M parameters with training-only parts{classes}",
        f"data       {info.name}: {len(task.train_set)} images in {options.train_split!r}, "
        f"{len(task.val_set)} in {options.val_split!r}",
        *task.train_set.notes,
        f"batch      {options.batch_size} effective = {training.micro_batch} in a pass × {training.passes} accumulated "
        f"× {processes} process(es); crops of {height}×{width}",
        f"optimiser  {options.optimizer}, rate {options.learning_rate:g}, {options.schedule} over "
        f"{options.max_steps} steps ({epochs:.0f} epochs), precision {options.precision}, EMA {options.ema:g}",
        f"machine    {device_name(training.fabric.device)}, {worker_count(options, processes)} data workers; "
        f"output in {options.folder}",
    ]
