"""What every report of an evaluation is: numbers, a table, JSON, and one HTML page that needs no other file."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from segmentarium.brief import Brief
from segmentarium.files import atomic_write, check_targets, has_keys, write_png, write_text

if TYPE_CHECKING:
    from rich.table import Table

RGB = tuple[int, int, int]


@dataclass(kw_only=True, repr=False)
class Measured(Brief):
    """What is known of every evaluation.

    A report of a kind gives its scores (`scores`, `headline`) and its table (`columns`, `rows`).

    images     images scored
    seconds    wall time of the whole run, reading included; `model_seconds` those inside the model
    notes      what a reader must know: left-out channels, suspect label numbers, …
    warning    why the scores must not be believed: the pictures were trained on
    """

    heading: ClassVar[str]  # of the table

    images: int
    seconds: float
    model_seconds: float
    model: dict[str, Any]
    data: dict[str, Any]
    options: dict[str, Any]
    machine: dict[str, Any]
    versions: dict[str, str]
    notes: list[str] = field(default_factory=list)
    warning: str = ""

    def told(self) -> str:
        scores = ", ".join(f"{name} {value}" for name, value in self.headline())
        return f"{self.model.get('name', '')} on {self.data.get('name', '')} {self.data.get('split', '')}: {scores}"

    def scores(self) -> dict[str, Any]:
        """Every number that was found, as plain data; null for those that do not exist."""
        raise NotImplementedError

    def headline(self) -> list[tuple[str, str]]:
        """(name, value in percent) of the scores that are published, in their usual order."""
        raise NotImplementedError

    def columns(self) -> tuple[str, ...]:
        """Heads of the table."""
        raise NotImplementedError

    def rows(self) -> list[tuple[str, ...]]:
        """Its rows, as they are to be read."""
        raise NotImplementedError

    def drawn(self) -> list[tuple[RGB, float]]:
        """Of each row the colour that stands before it, and the score, 0..1, that is drawn as a bar; []: tables without."""
        return []

    def facts(self) -> dict[str, Any]:
        """Further counts for the foot of the page."""
        return {}

    def images_line(self) -> str:
        """How many images there were, for the summary."""
        return f"{self.images} images"

    def as_dict(self) -> dict[str, Any]:
        """Everything but the pictures, as plain data."""
        return {
            **self.scores(),
            "seconds": round(self.seconds, 3),
            "model_seconds": round(self.model_seconds, 3),
            "model": self.model,
            "data": self.data,
            "options": self.options,
            "notes": self.notes,
            "warning": self.warning,
            "machine": self.machine,
            "versions": self.versions,
        }

    def json(self) -> str:
        return json.dumps(self.as_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def write_json(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Writes the numbers, whole or not at all.  FileExistsError where another file than such a report is there."""
        path = Path(path)
        check_json(path, overwrite=overwrite)
        write_text(path, self.json())
        return path

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Writes report.json and report.html into a folder; returns the page's path.  Raises what `check_output` raises."""
        from segmentarium.evaluation.html import page

        folder = Path(folder)
        check_output(folder, overwrite=overwrite)
        self.write_json(folder / "report.json", overwrite=overwrite)
        write_text(folder / "report.html", page(self))
        return folder / "report.html"

    def counted_line(self) -> str:
        """How much was counted, and how, for the page."""
        return f"{self.images_line()}; {self.options['protocol']}."

    def table(self) -> Table:
        """The table as rich prints it."""
        from rich.markup import escape
        from rich.table import Table

        first, *rest = self.columns()
        table = Table(first, caption=f"WARNING: {self.warning}" if self.warning else None, caption_style="bold red")
        for column in rest:
            table.add_column(column, justify="right")
        for row in self.rows():
            table.add_row(*map(escape, row))  # "[mm]" in a class's name is no style
        return table

    def summary(self) -> str:
        """Two lines: the scores in percent; images and time."""
        scores = "   ".join(f"{name} {value}" for name, value in self.headline())
        return f"{scores}\n{self.images_line()} in {self.seconds:.1f} s; {self.options['protocol']}"


@dataclass(kw_only=True, repr=False)
class BaseReport(Measured):
    """An evaluation by classes.  All shares lie in 0..1; NaN: there was nothing of that class.

    A report of a kind gives `scores`, `headline` and `by_class`.

    confusion  int64 (K, K) of what is counted: rows the labels, columns the predictions
    worst      the worst images, where there are pictures of them
    """

    heading = "Classes"
    counted: ClassVar[str]  # what the confusion matrix counts, in words
    worst_text: ClassVar[str]  # what the worst images are, and what is shown of them

    confusion: np.ndarray
    classes: tuple[str, ...]
    palette: tuple[RGB, ...]
    worst: list[Any] = field(default_factory=list)

    def by_class(self) -> dict[str, dict[str, float]]:
        """Column of the table -> score of each class.  The first is drawn as bars."""
        raise NotImplementedError

    def shares(self) -> dict[str, float]:
        """Share of what is counted by class name."""
        rows = self.confusion.sum(1) / max(int(self.confusion.sum()), 1)
        return dict(zip(self.classes, rows.tolist(), strict=True))

    def as_dict(self) -> dict[str, Any]:
        worst = [bad.as_dict() for bad in self.worst]
        return {**super().as_dict(), "worst": worst, "confusion": self.confusion.tolist()}

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Writes confusion.png and worst/*.png, too."""
        from segmentarium.evaluation.html import page
        from segmentarium.evaluation.pictures import confusion_plot, strip

        folder = Path(folder)
        check_output(folder, overwrite=overwrite)
        plot = confusion_plot(self.confusion, self.classes, self.counted)
        earlier = _worst_of(folder / "report.json")
        self.write_json(folder / "report.json", overwrite=overwrite)
        with atomic_write(folder / "confusion.png") as temporary:
            temporary.write_bytes(plot)
        names = _picture_names(image.name for image in self.worst)
        for name, image in zip(names, self.worst, strict=True):
            write_png(folder / "worst" / name, strip(list(image.panels(self.palette).values())))
        write_text(folder / "report.html", page(self, plot))
        for name in set(earlier) - set(names):  # else two reports' pictures lie side by side
            (folder / "worst" / name).unlink(missing_ok=True)
        return folder / "report.html"

    def columns(self) -> tuple[str, ...]:
        return ("class", *self.by_class(), self.counted.split()[-1])

    def rows(self) -> list[tuple[str, ...]]:
        """A row a class: name, its scores in the order of `columns`, its share of what is counted; percent."""
        columns = (*self.by_class().values(), self.shares())
        return [(name, *(percent(column[name]) for column in columns)) for name in self.classes]

    def drawn(self) -> list[tuple[RGB, float]]:
        bars = next(iter(self.by_class().values()))
        return [(colour, bars[name]) for name, colour in zip(self.classes, self.palette, strict=True)]

    def counted_line(self) -> str:
        counted = f"{self.images} images, {int(self.confusion.sum()):,} {self.counted}"
        return f"{counted}; {self.options['protocol']}. All scores in percent."


def _picture_names(names: Iterable[str]) -> list[str]:
    """The files of the worst images, the worst first."""
    return [f"{place:02d}_{Path(name).name}.png" for place, name in enumerate(names, 1)]


def _worst_of(path: Path) -> list[str]:
    """The files of the worst images of the report that is there; none where there is no such report."""
    if not has_keys(path, ("model_seconds", "versions", "worst")):
        return []
    return _picture_names(bad["name"] for bad in json.loads(path.read_text(encoding="utf-8"))["worst"])


def check_json(path: Path, *, overwrite: bool = False) -> None:
    """FileExistsError where something else than an earlier report is there."""
    check_targets([path], overwrite=overwrite, ours=has_keys(path, ("model_seconds", "versions")))


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


def number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def numbers(values: dict[str, float] | None) -> dict[str, float | None] | None:
    return values and {name: number(value) for name, value in values.items()}  # type: ignore[return-value]
