"""What came out: a row a candidate, as JSON, CSV and Markdown."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from segmentarium.brief import Brief
from segmentarium.comparison.pareto import pareto_front

if TYPE_CHECKING:
    from rich.table import Table

AGREES = 0.99  # share of a picture's pixels with the eager form's class, from which on a form's time counts


@dataclass(frozen=True)
class Measures:
    """What a report's scores are called on the page; the first column decides which model is better.

    columns   key of the report -> heading
    by_class  key of the scores of each class, and their heading
    share     key of how much of what is counted each class has, and what is counted
    mean      key of the mean over the classes
    """

    columns: dict[str, str]
    by_class: tuple[str, str]
    share: tuple[str, str]
    mean: str

    def of_classes(self, scores: dict[str, Any]) -> dict[str, float | None]:
        """Of a report's scores, those of each class."""
        key, heading = self.by_class
        return scores[key][heading] if key == "by_class" else scores[key]

    def shares(self, scores: dict[str, Any]) -> dict[str, float]:
        """Of what is counted, the share that each class has."""
        found = scores[self.share[0]]
        total = max(1, sum(found.values())) if self.share[0] == "segments" else 1  # of segments there are numbers
        return {name: value / total for name, value in found.items()}

    @property
    def key(self) -> str:
        return next(iter(self.columns))

    @property
    def name(self) -> str:
        return self.columns[self.key]


MEASURES = {
    "segmentation": Measures(
        {"miou": "mIoU", "macc": "mAcc", "aacc": "aAcc", "boundary_iou": "boundary IoU"},
        ("iou", "IoU"),
        ("pixel_share", "pixels"),
        "miou",
    ),
    "classification": Measures(
        {"top1": "top-1", "top5": "top-5", "macc": "mAcc"},
        ("accuracy", "accuracy"),
        ("picture_share", "pictures"),
        "macc",
    ),
    "panoptic": Measures(
        {"pq": "PQ", "sq": "SQ", "rq": "RQ", "pq_things": "PQ things", "pq_stuff": "PQ stuff"},
        ("by_class", "PQ"),
        ("segments", "segments"),
        "pq",
    ),
    "instance": Measures(
        {"ap": "AP", "ap50": "AP50", "ap75": "AP75", "box_ap": "box AP", "boundary_ap": "boundary AP", "pq": "PQ"},
        ("by_class", "AP"),
        ("segments", "segments"),
        "ap",
    ),
}


@dataclass(repr=False)
class Outcome(Brief):
    """One candidate.  Scores and shares lie in 0..1, latencies are in milliseconds.

    training     {"steps", "seconds", "commands", "seconds_per_step"}; None: loaded
    scores       the evaluation's report as plain data; None: not done
    facts        parameters (1e6), multiply_adds (1e9) at `size` (height, width), published scores
    speed        form -> {"p50", "p90", "same_class", "problem", "skipped"}
    problem      why it is not complete, by phase
    """

    label: str
    origin: str
    weights: str = ""
    training: dict[str, Any] | None = None
    scores: dict[str, Any] | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    speed: dict[str, dict[str, Any]] = field(default_factory=dict)
    problem: dict[str, str] = field(default_factory=dict)

    @property
    def score(self) -> float:
        """mIoU of a segmenter, top-1 of a classifier, PQ or AP of segments; NaN: not scored."""
        scores = self.scores or {}
        value = scores.get({"panoptic": "pq", "instance": "ap"}.get(scores.get("task", ""), "miou"), scores.get("top1"))
        return math.nan if value is None else value

    @property
    def best_form(self) -> str:
        """The fastest form whose classes agree with the eager one's; "": none was timed."""
        timed = {
            form: s["p50"] for form, s in self.speed.items() if s.get("p50") and (s.get("same_class") or 0) >= AGREES
        }
        return min(timed, key=timed.__getitem__) if timed else ""

    @property
    def latency(self) -> float:
        """Median milliseconds of the best form; NaN: not timed."""
        return self.speed[self.best_form]["p50"] if self.best_form else math.nan

    @property
    def complete(self) -> bool:
        return self.scores is not None and bool(self.best_form) and not self.problem

    def row(self, forms: tuple[str, ...], measures: Measures) -> dict[str, Any]:
        """Flat, for CSV and Markdown; scores in percent."""
        scores = self.scores or {}
        percent = {name: _percent(scores.get(name)) for name in measures.columns}
        return {
            "model": self.label,
            **percent,
            "parameters_m": _rounded(self.facts.get("parameters"), 3),
            "multiply_adds_g": _rounded(self.facts.get("multiply_adds"), 3),
            "size": "x".join(map(str, self.facts.get("size", ()))),
            **{f"{form}_ms": _rounded(self.speed.get(form, {}).get("p50"), 2) for form in forms},
            "best_form": self.best_form,
            "steps": self.training["steps"] if self.training else None,
            "training_seconds": _rounded(self.training["seconds"], 1) if self.training else None,
            "published": "; ".join(f"{what} {score:g}" for what, score in self.facts.get("published", {}).items()),
            "weights": self.weights,
            "problem": "; ".join(f"{phase}: {text}" for phase, text in self.problem.items()),
        }


@dataclass(repr=False)
class Comparison(Brief):
    """All candidates, and what they share."""

    outcomes: list[Outcome]
    data: dict[str, Any]
    options: dict[str, Any]
    machine: dict[str, Any]
    command: str
    forms: tuple[str, ...]
    pictures: list[dict[str, Any]] = field(default_factory=list)

    def told(self) -> str:
        best = ", ".join(f"{o.label} {100 * o.score:.2f}" for o in self.ranked[:3] if not math.isnan(o.score))
        return f"{len(self.outcomes)} models, {self.measures.name}: {best or 'none scored'}"

    @property
    def measures(self) -> Measures:
        return MEASURES[self.data["task"]]

    @property
    def front(self) -> list[str]:
        """Labels of the candidates that none beats in latency and score, fastest first."""
        return [self.outcomes[i].label for i in pareto_front([(o.latency, o.score) for o in self.outcomes])]

    @property
    def ranked(self) -> list[Outcome]:
        """The best score first, those without one last."""
        return sorted(self.outcomes, key=lambda o: -1.0 if math.isnan(o.score) else o.score, reverse=True)

    @property
    def failed(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.problem]

    def as_dict(self) -> dict[str, Any]:
        """Everything but the pictures."""
        return {
            "data": self.data,
            "options": self.options,
            "command": self.command,
            "machine": self.machine,
            "pareto_front": self.front,
            "models": [{**asdict(o), "best_form": o.best_form} for o in self.ranked],
        }

    def json(self) -> str:
        return json.dumps(self.as_dict(), indent=1, ensure_ascii=False) + "\n"

    def csv(self) -> str:
        file = io.StringIO()
        rows = [outcome.row(self.forms, self.measures) for outcome in self.ranked]
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        return file.getvalue()

    def table(self) -> Table:
        """The same for a terminal: what decides, and what went wrong."""
        from rich import box
        from rich.table import Table

        told = {key: name for key, name in self.measures.columns.items() if key not in ("macc", "aacc")}
        made = Table("model", box=box.SIMPLE, pad_edge=False)
        for head in (*told.values(), "M par.", "GFLOPs", *(f"{form} ms" for form in self.forms), "steps"):
            made.add_column(head, justify="right")
        keys = (*told, "parameters_m", "multiply_adds_g", *(f"{form}_ms" for form in self.forms), "steps")
        for outcome in self.ranked:
            row = outcome.row(self.forms, self.measures)
            made.add_row(row["model"], *(_cell(row[key]) for key in keys))
        return made

    def markdown(self) -> str:
        """The table that a results page shows."""
        told = {key: name for key, name in self.measures.columns.items() if key not in ("macc", "aacc")}
        names = (*told.values(), "parameters (M)", "GFLOPs", *(f"{form} (ms)" for form in self.forms))
        keys = (*told, "parameters_m", "multiply_adds_g", *(f"{form}_ms" for form in self.forms))
        lines = [
            "| model | " + " | ".join((*names, "steps", "published", "weights")) + " |",
            "|---|" + "---|" * (len(names) + 3),
        ]
        for outcome in self.ranked:
            row = outcome.row(self.forms, self.measures)
            cells = [row["model"], *(_cell(row[key]) for key in (*keys, "steps", "published"))]
            cells.append(f"`{outcome.weights}`" if outcome.weights else "")
            lines.append("| " + " | ".join(cells) + " |")
            if row["problem"]:
                lines.append(f"| | {row['problem'].replace('|', '/')} |" + " |" * (len(names) + 1))
        return "\n".join(lines) + "\n"


def _percent(value: float | None) -> float | None:
    return None if value is None else round(100 * value, 2)


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)
