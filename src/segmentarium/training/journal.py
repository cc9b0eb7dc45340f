"""The run's log: CSV files, TensorBoard, and lines or a bar on the terminal."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Journal:
    """Only the first of several processes writes.

    resumed_at   the step that the run continues from: what the files say of later ones is forgotten, they come again;
                 None: a new run
    """

    def __init__(self, folder: Path, total: int, *, writes: bool, resumed_at: int | None) -> None:
        self.folder, self.writes = folder, writes
        self.console = Console(quiet=not writes)
        self.resumed_at = -1 if resumed_at is None else resumed_at
        self.known: set[str] = set()
        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            TextColumn("{task.fields[news]}"), console=self.console, disable=not (writes and self.console.is_terminal),
        )  # fmt: skip
        self.row = self.bar.add_task("training", total=total, completed=resumed_at or 0, news="")
        self.tensorboard: Any = None

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

    def progress(self, step: int, news: str | None = None) -> None:
        """Moves the bar; news are said in a line where there is none."""
        self.bar.update(self.row, completed=step, **({} if news is None else {"news": news}))
        if news is not None and self.bar.disable:
            self.say(f"step {step}/{self.bar.tasks[0].total}  {news}")

    def write(self, kind: str, step: int, values: Mapping[str, float | None]) -> None:
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
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *kept])
