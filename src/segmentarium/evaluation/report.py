"""The result of an evaluation: numbers, a table, JSON, and one HTML page that needs no other file."""

from __future__ import annotations

import importlib.util
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from segmentarium.evaluation.worst import BadImage
from segmentarium.files import atomic_write, check_targets, has_keys

if TYPE_CHECKING:
    from rich.table import Table

RGB = tuple[int, int, int]


@dataclass
class Report:
    """Scores of a model on a data set.  All shares lie in 0..1; NaN: no pixel of that class was labelled or predicted.

    miou, macc, aacc   mean IoU, mean accuracy (recall) over the classes, and the share of right pixels
    iou, acc           by class name
    boundary_iou       mean of `boundary_iou_by_class`; None where it was not asked for
    confusion          int64 (K, K) pixels: rows the labels, columns the predictions
    images, void       images scored, and how many of them had no labelled pixel
    pixels, ignored    labelled pixels, and those that count nowhere (255)
    seconds            wall time of the whole run, reading included; `model_seconds` those inside the model
    notes              what a reader must know: left-out channels, suspect label numbers, …
    """

    miou: float
    macc: float
    aacc: float
    iou: dict[str, float]
    acc: dict[str, float]
    boundary_iou: float | None
    boundary_iou_by_class: dict[str, float] | None
    confusion: np.ndarray
    palette: tuple[RGB, ...]
    images: int
    void: int
    pixels: int
    ignored: int
    seconds: float
    model_seconds: float
    model: dict[str, Any]
    data: dict[str, Any]
    options: dict[str, Any]
    machine: dict[str, Any]
    versions: dict[str, str]
    notes: list[str] = field(default_factory=list)
    worst: list[BadImage] = field(default_factory=list)

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.iou)

    def shares(self) -> dict[str, float]:
        """Share of the labelled pixels by class name."""
        rows = self.confusion.sum(1) / max(self.pixels, 1)
        return dict(zip(self.classes, rows.tolist(), strict=True))

    def as_dict(self) -> dict[str, Any]:
        """Everything but the pictures, as plain data; null for scores that do not exist."""
        return {
            "miou": _number(self.miou),
            "macc": _number(self.macc),
            "aacc": _number(self.aacc),
            "boundary_iou": _number(self.boundary_iou),
            "iou": {name: _number(value) for name, value in self.iou.items()},
            "acc": {name: _number(value) for name, value in self.acc.items()},
            "boundary_iou_by_class": self.boundary_iou_by_class
            and {name: _number(value) for name, value in self.boundary_iou_by_class.items()},
            "pixel_share": {name: _number(value) for name, value in self.shares().items()},
            "images": self.images,
            "void_images": self.void,
            "pixels": self.pixels,
            "ignored_pixels": self.ignored,
            "seconds": round(self.seconds, 3),
            "model_seconds": round(self.model_seconds, 3),
            "model": self.model,
            "data": self.data,
            "options": self.options,
            "notes": self.notes,
            "worst": [{"name": w.name, "index": w.index, "miou": _number(w.miou)} for w in self.worst],
            "confusion": self.confusion.tolist(),
            "machine": self.machine,
            "versions": self.versions,
        }

    def json(self) -> str:
        return json.dumps(self.as_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def write_json(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Writes the numbers, whole or not at all.  FileExistsError where another file than such a report is there."""
        path = Path(path)
        check_json(path, overwrite=overwrite)
        with atomic_write(path) as temporary:
            temporary.write_text(self.json(), encoding="utf-8")
        return path

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Writes report.json, report.html, confusion.png and worst/*.png into a folder; returns the page's path.

        Raises what `check_output` raises.
        """
        from segmentarium.evaluation.html import page
        from segmentarium.evaluation.pictures import confusion_plot, strip

        folder = Path(folder)
        check_output(folder, overwrite=overwrite)
        plot = confusion_plot(self.confusion, self.classes)
        self.write_json(folder / "report.json", overwrite=overwrite)
        with atomic_write(folder / "confusion.png") as temporary:
            temporary.write_bytes(plot)
        for place, image in enumerate(self.worst, 1):
            name = f"{place:02d}_{Path(image.name).name}.png"
            with atomic_write(folder / "worst" / name) as temporary:
                strip(list(image.panels(self.palette).values())).save(temporary, format="PNG")
        with atomic_write(folder / "report.html") as temporary:
            temporary.write_text(page(self, plot), encoding="utf-8")
        return folder / "report.html"

    def headline(self) -> list[tuple[str, str]]:
        """(name, value in percent) of the scores that are published, in their usual order."""
        rows = [("mIoU", percent(self.miou)), ("mAcc", percent(self.macc)), ("aAcc", percent(self.aacc))]
        return rows if self.boundary_iou is None else [*rows, ("boundary IoU", percent(self.boundary_iou))]

    def rows(self) -> list[tuple[str, ...]]:
        """A row a class: name, IoU, accuracy, boundary IoU (where computed), share of the labelled pixels; percent."""
        shares = self.shares()
        rows = []
        for name in self.classes:
            row = [name, percent(self.iou[name]), percent(self.acc[name])]
            if self.boundary_iou_by_class is not None:
                row.append(percent(self.boundary_iou_by_class[name]))
            rows.append((*row, percent(shares[name])))
        return rows

    def columns(self) -> tuple[str, ...]:
        boundary = () if self.boundary_iou_by_class is None else ("boundary IoU",)
        return ("class", "IoU", "Acc", *boundary, "pixels")

    def table(self) -> Table:
        """The per-class table as rich prints it; numbers in percent."""
        from rich.table import Table

        first, *rest = self.columns()
        table = Table(first)
        for column in rest:
            table.add_column(column, justify="right")
        for row in self.rows():
            table.add_row(*row)
        return table

    def summary(self) -> str:
        """Two lines: the scores in percent; images and time."""
        scores = "   ".join(f"{name} {value}" for name, value in self.headline())
        void = f" ({self.void} without a labelled pixel)" if self.void else ""
        return f"{scores}\n{self.images} images{void} in {self.seconds:.1f} s; {self.options['protocol']}"


def check_json(path: Path, *, overwrite: bool = False) -> None:
    """FileExistsError where something else than an earlier report is there."""
    check_targets([path], overwrite=overwrite, ours=has_keys(path, ("miou", "confusion")))


def check_output(folder: str | Path, *, overwrite: bool = False) -> None:
    """Finds out before the work, not after it, that a report cannot be written there.

    Raises ImportError where matplotlib, which draws the confusion matrix, is not installed, NotADirectoryError for a file,
    and FileExistsError where a file of these names is there that is of no earlier report, unless `overwrite`.
    """
    if importlib.util.find_spec("matplotlib") is None:
        from segmentarium.evaluation.pictures import NEEDS_MATPLOTLIB

        raise ImportError(NEEDS_MATPLOTLIB)
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; give a folder for the report")
    check_json(folder / "report.json", overwrite=overwrite)
    if not (folder / "report.json").exists():
        names = (folder / "report.html", folder / "confusion.png", *folder.glob("worst/*.png"))
        check_targets(names, overwrite=overwrite)


def percent(value: float | None) -> str:
    """0.62345 -> "62.35"; a dash for what does not exist."""
    return "–" if value is None or math.isnan(value) else f"{100 * value:.2f}"


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)
