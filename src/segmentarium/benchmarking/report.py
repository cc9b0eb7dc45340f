"""Measurements as a table, CSV, JSON and a plot."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segmentarium.benchmarking.case import Measurement
from segmentarium.benchmarking.machine import describe
from segmentarium.files import atomic_write, write_json

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS: tuple[str, ...] = (
    "model", "engine", "height", "width", "batch", "threads", "parameters_m", "multiply_adds_g",
    "start_s", "p50_ms", "p90_ms", "p99_ms", "images_per_s", "end_to_end_p50_ms", "peak_memory_mb", "memory_mb", "same_class",
    "problem",
)  # fmt: skip


def as_row(measurement: Measurement) -> dict[str, Any]:
    """One line of the CSV, by `COLUMNS`; None where nothing was measured."""
    case, latency, whole = measurement.case, measurement.latency, measurement.end_to_end
    values = (
        case.model, case.form, *case.size, case.batch, case.threads, measurement.parameters, measurement.multiply_adds,
        measurement.start, latency and latency.p50, latency and latency.p90, latency and latency.p99, measurement.throughput,
        whole and whole.p50, measurement.peak_memory, measurement.memory, measurement.same_class, measurement.problem,
    )  # fmt: skip
    return dict(zip(COLUMNS, values, strict=True))


def table(measurements: Sequence[Measurement]) -> Table:
    """For the terminal: one line a case, the speed-up against the model's own eager form beside the latency."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    made = Table("model", "engine", box=box.SIMPLE, pad_edge=False)
    for head in ("start s", "p50 / p90 / p99 ms", "×eager", "img/s", "JPEG→mask", "MB", "same class"):
        made.add_column(head, justify="right", no_wrap=True)
    eager = {m.case.model: m.latency.p50 for m in measurements if m.case.form == "eager" and m.latency}
    for m in measurements:
        name = escape(m.case.model)  # brackets in a path are no style
        if m.latency is None:
            made.add_row(name, m.case.form, "skipped" if m.skipped else "[red]failed[/red]")
            continue
        gain = eager[m.case.model] / m.latency.p50 if m.case.model in eager else None
        made.add_row(
            name,
            m.case.form,
            _number(m.start, ".1f"),
            f"{m.latency.p50:.1f} / {m.latency.p90:.1f} / {m.latency.p99:.1f}",
            _number(gain, ".2f"),
            _number(m.throughput, ".1f"),
            _number(m.end_to_end and m.end_to_end.p50, ".1f"),
            _number(m.memory, ".0f"),
            _number(m.same_class, ".2%"),
        )
    return made


def remarks(measurements: Sequence[Measurement]) -> list[str]:
    """Size of each model, and why a case has no numbers."""
    lines = []
    for model in dict.fromkeys(m.case.model for m in measurements):
        done = next((m for m in measurements if m.case.model == model and m.parameters is not None), None)
        if done is not None:
            size, batch = (
                "×".join(map(str, done.case.size)),
                f", batch {done.case.batch}" if done.case.batch > 1 else "",
            )
            lines.append(
                f"{model}: {done.parameters:.2f} M parameters, {done.multiply_adds:.2f} G multiply-adds at {size}"
                f"{batch}, {done.case.threads} threads"
            )
    lines += [f"{m.case.model} {m.case.form}: {m.problem}" for m in measurements if m.problem]
    return lines


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def write_csv(measurements: Sequence[Measurement], path: Path) -> None:
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(COLUMNS))
        writer.writeheader()
        writer.writerows(as_row(measurement) for measurement in measurements)


def write_report(measurements: Sequence[Measurement], facts: dict[str, Any], path: Path) -> None:
    write_json(path, {"machine": facts, "measurements": [measurement.as_dict() for measurement in measurements]})


def write_plot(measurements: Sequence[Measurement], facts: dict[str, Any], path: Path) -> None:
    """Bars of the median latency, one group a model, a whisker to the 90th percentile; the machine underneath."""
    import textwrap

    from matplotlib.figure import Figure

    done = [m for m in measurements if m.latency is not None]
    models = list(dict.fromkeys(m.case.model for m in done))
    forms = list(dict.fromkeys(m.case.form for m in done))
    figure = Figure(figsize=(9, 1.6 + 0.26 * len(done) + 0.2 * len(models)), layout="constrained")
    axes = figure.subplots()
    position, centres = 0.0, []
    for model in models:
        first = position
        for m in (m for m in done if m.case.model == model):
            assert m.latency is not None
            colour = f"C{forms.index(m.case.form)}"
            axes.barh(position, m.latency.p50, 0.85, color=colour)
            axes.plot([m.latency.p50, m.latency.p90], [position, position], color="black", linewidth=1)
            axes.text(m.latency.p90, position, f" {m.latency.p50:.1f} ms  {m.case.form}", va="center", fontsize=8)
            position += 1
        centres.append((first + position - 1) / 2)
        position += 0.8
    axes.set_yticks(centres, [Path(model).stem if "/" in model else model for model in models])
    axes.invert_yaxis()
    axes.margins(x=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    sizes = ", ".join(dict.fromkeys("×".join(map(str, m.case.size)) for m in done))
    axes.set_xlabel(f"median latency in ms at {sizes} (line: to the 90th percentile)")
    figure.supxlabel("\n".join(textwrap.wrap(describe(facts), 150)), fontsize=6)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=150, format=path.suffix[1:])
