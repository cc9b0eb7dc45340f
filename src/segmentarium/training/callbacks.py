"""What happens between optimiser steps: logging, evaluation, checkpoints, and a clean stop."""

from __future__ import annotations

import csv
import json
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from segmentarium.data import SegmentationDataset
from segmentarium.training.checkpoints import (
    BEST_WEIGHTS,
    LAST,
    LAST_WEIGHTS,
    kept_on_failure,
    restore,
    training_state,
    write_checkpoint,
)
from segmentarium.training.loaders import validation_loader
from segmentarium.training.task import SegmentationTask
from segmentarium.training.validation import Interrupted, confusion_of, save_pictures, scores

DATA_SHARE_TO_NAME = 0.3  # of a step's time, from which on the log says that data is the bottleneck
SYNC_STOP_EVERY = 10  # steps between two agreements of several processes to stop
VALIDATION_PICTURES = 4


class Journal:
    """The run's log: CSV files, TensorBoard, and lines or a bar on the terminal.  Only process 0 writes."""

    def __init__(self, folder: Path, total: int, *, writes: bool, logger: Any, resumed_at: int) -> None:
        self.folder, self.writes, self.logger = folder, writes, logger
        self.console = Console(quiet=not writes)
        self.resumed_at = resumed_at
        self.known: set[str] = set()
        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            TextColumn("{task.fields[news]}"), console=self.console, disable=not (writes and self.console.is_terminal),
        )  # fmt: skip
        self.row = self.bar.add_task("training", total=total, completed=resumed_at, news="")

    def say(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def write(self, kind: str, step: int, values: dict[str, float | None]) -> None:
        """A row of KIND.csv, and the same values in TensorBoard."""
        if not self.writes:
            return
        path = self.folder / f"{kind}.csv"
        row = {"step": step, **values}
        if kind not in self.known:
            self.known.add(kind)
            forget_after(path, self.resumed_at)
            if not path.exists():
                with path.open("w", newline="", encoding="utf-8") as file:
                    csv.writer(file).writerow(row)
        with path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(["" if value is None else f"{value:.6g}" for value in row.values()])
        if self.logger is not None:
            self.logger.log_metrics({f"{kind}/{k}": v for k, v in values.items() if v is not None}, step)


def forget_after(path: Path, step: int) -> None:
    """Drops the rows of steps after `step`: those that a killed run logged and a resumed one does again."""
    if not path.exists():
        return
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    kept = [row for row in rows if row and float(row[0]) <= step]
    if not header or len(kept) == len(rows):
        return
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *kept])


class StopSignals:
    """Turns the first SIGINT or SIGTERM into `received`; a second Ctrl-C interrupts at once."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def listen(self) -> None:
        """From now on; called when training begins, because Lightning sets handlers of its own before that."""
        for number in self._before:
            signal.signal(number, self._note)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number


class RunControl(pl.Callback):
    """After every optimiser step, in this order: check, log, evaluate, save, stop."""

    def __init__(
        self,
        folder: Path,
        journal: Journal,
        stop: StopSignals,
        val_dataset: SegmentationDataset,
        facts: dict[str, Any],
        resumed: dict[str, Any] | None,
    ) -> None:
        self.folder, self.journal, self.stop = folder, journal, stop
        self.val_dataset, self.facts, self.resumed = val_dataset, facts, resumed
        self.seen_step = self.logged_step = 0
        self.logged_at = self.logged_wait = 0.0
        self.bottleneck_named = False

    def on_train_start(self, trainer: pl.Trainer, task: SegmentationTask) -> None:  # type: ignore[override]
        if self.resumed is not None:
            restore(trainer, task, self.resumed)
            self.resumed = None
        self.stop.listen()
        self.seen_step = self.logged_step = task.step
        self.journal.bar.start()
        if task.options.weights is not None and not task.step:
            self.validate(trainer, task)  # what the given weights are worth, before they change
        if task.step and task.step % task.options.val_every == 0 and task.validated_step != task.step:
            self.validate(trainer, task)  # the run was stopped during this evaluation
        self._restart_clock(task)

    def on_train_batch_end(self, trainer: pl.Trainer, task: SegmentationTask, *_: Any) -> None:  # type: ignore[override]
        if task.step == self.seen_step:
            return  # only accumulated
        self.seen_step = step = task.step
        options, last = task.options, task.step >= task.options.max_steps
        self.journal.bar.update(self.journal.row, completed=step)
        if step % options.log_every == 0 or last:
            self.report(task)
        stopping = self._agreed_to_stop(trainer, step)
        if (step % options.val_every == 0 or last) and not stopping:
            self.validate(trainer, task)
            stopping = self._agreed_to_stop(trainer, step, now=True)
        if step % options.save_every == 0 or last or stopping:
            self.save(trainer, task)
        if stopping:
            trainer.should_stop = True

    def on_exception(self, trainer: pl.Trainer, task: SegmentationTask, exception: BaseException) -> None:  # type: ignore[override]
        self.journal.bar.stop()

    def on_train_end(self, trainer: pl.Trainer, task: SegmentationTask) -> None:  # type: ignore[override]
        self.journal.bar.stop()

    def report(self, task: SegmentationTask) -> None:
        """Losses, rate, speed; and where the time goes if it is not the network."""
        task.check_losses()
        steps, seconds = task.step - self.logged_step, time.perf_counter() - self.logged_at
        waited = task.loader.waited - self.logged_wait if task.loader else 0.0
        losses = task.take_window()
        rate = max(group["lr"] for group in task.optimizers().param_groups)  # type: ignore[union-attr]
        speed = steps * task.options.batch_size / seconds
        values: dict[str, float | None] = {
            **losses,
            "learning_rate": rate,
            "samples_per_second": speed,
            "step_seconds": seconds / steps,
            "data_seconds": waited / steps,
        }
        self.journal.write("train", task.step, values)
        news = f"loss {losses['loss']:.4f}  rate {rate:.2e}  {speed:.1f} samples/s  step {seconds / steps:.3f} s"
        news += f" (data {waited / steps:.3f} s)"
        self.journal.bar.update(self.journal.row, news=news)
        if self.journal.bar.disable:
            self.journal.say(f"step {task.step}/{task.options.max_steps}  {news}")
        if waited > DATA_SHARE_TO_NAME * seconds and not self.bottleneck_named:
            self.bottleneck_named = True
            self.journal.say(
                f"bottleneck: data. {waited / seconds:.0%} of each step is spent waiting for it; "
                "try more --workers, --cache, smaller images on disk, or fewer augmentations"
            )
        self._restart_clock(task)

    def _restart_clock(self, task: SegmentationTask) -> None:
        self.logged_step, self.logged_at = task.step, time.perf_counter()
        self.logged_wait = task.loader.waited if task.loader else 0.0

    def validate(self, trainer: pl.Trainer, task: SegmentationTask) -> None:
        """Scores the averaged weights; keeps them as best.safetensors if none were better."""
        start = time.perf_counter()
        task.check_losses()
        model, options = task.evaluated, task.options
        loader = validation_loader(
            self.val_dataset,
            task.model,
            options,
            batch_size=task.micro_batch,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
        )
        number = task.step // options.val_every
        wanted = VALIDATION_PICTURES if options.images_every and number % options.images_every == 0 else 0
        try:
            confusion, pictures = confusion_of(
                model,  # type: ignore[arg-type]
                loader,
                self.val_dataset.info.num_classes,
                task.device,
                context=trainer.precision_plugin.forward_context,
                stopped=lambda: self.stop.received is not None and trainer.world_size == 1,
                pictures=wanted if trainer.is_global_zero else 0,
            )
        except Interrupted:
            return
        finally:
            task.model.train()
            self.logged_at += time.perf_counter() - start  # evaluation is no part of a step's time
        found = scores(confusion.all_reduce())
        task.validated_step = task.step
        names = self.val_dataset.info.classes
        by_class = {f"iou {name}": value for name, value in zip(names, found["iou"], strict=True)}
        values = {key: found[key] for key in ("miou", "macc", "aacc")}
        better = task.best is None or found["miou"] > task.best["miou"]
        if better:
            task.best = {"step": task.step, **found}
        self.journal.write("val", task.step, {**values, **by_class})
        self.journal.say(
            f"step {task.step}: {options.val_split} mIoU {found['miou']:.4f}"
            f"  mAcc {found['macc']:.4f}  aAcc {found['aacc']:.4f}"
            f"  ({time.perf_counter() - start:.1f} s){'  best so far' if better else ''}"
        )
        if trainer.is_global_zero:
            if task.options.weights is not None and not task.step:
                from segmentarium.evaluation.diagnosis import label_warning

                hint = label_warning(confusion.counts.cpu().numpy(), found["miou"], names)
                if hint:
                    self.journal.say(f"warning: the weights that training starts from score next to nothing: {hint}")
            if better:
                self._save_weights(task, BEST_WEIGHTS, found)
            if pictures:
                save_pictures(model, pictures, self.folder / "pictures" / f"{task.step:07d}.png")  # type: ignore[arg-type]

    def save(self, trainer: pl.Trainer, task: SegmentationTask) -> None:
        """last.ckpt and last.safetensors, unless a loss or a weight is not finite."""
        task.check_losses()
        task.check_weights()
        state = training_state(trainer, task)  # a collective operation where the model is sharded
        if trainer.is_global_zero:
            write_checkpoint(self.folder / LAST, state)
            self._save_weights(task, LAST_WEIGHTS, None)

    def _save_weights(self, task: SegmentationTask, name: str, found: dict[str, Any] | None) -> None:
        from segmentarium.weights import save

        task.check_weights()
        metrics = {} if found is None else {key: value for key, value in found.items() if key != "iou"}
        with kept_on_failure(self.folder / name):
            save(task.evaluated, self.folder / name, **{**self.facts, "step": task.step, "metrics": metrics})

    def _agreed_to_stop(self, trainer: pl.Trainer, step: int, now: bool = False) -> bool:
        wanted = self.stop.received is not None
        if trainer.world_size == 1:
            return wanted
        if not now and step % SYNC_STOP_EVERY:
            return False
        return trainer.strategy.reduce_boolean_decision(wanted, all=False)


def write_json(path: Path, values: dict[str, Any]) -> None:
    from segmentarium.files import atomic_write

    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
