"""What a file of weights is, before it is loaded: what was recognised, what it says, and what had to be assumed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from segmentarium.brief import Brief
from segmentarium.weights.layouts import arguments_of
from segmentarium.weights.source import Stored, open_weights
from segmentarium.weights.table import LoadReport, fit


@dataclass(frozen=True, repr=False)
class Inspection(Brief):
    """What `inspect_weights` found.

    model     the registered name
    kind      of model: "segmenter", "classifier", … (`Model.kind`)
    layout    key table and source of another project's file; "" for one of ours
    read      arguments that the header has, or that keys and shapes tell
    assumed   arguments that leave no trace in keys and shapes, at the values of the published variant
    facts     what the header, or the publication that the layout knows, says besides: classes, preprocessing, dataset, licences
    report    which tensors fit
    headless  a backbone without a classifier
    """

    source: str
    model: str
    kind: str
    layout: str
    read: dict[str, Any]
    assumed: dict[str, Any]
    facts: dict[str, Any]
    report: LoadReport
    headless: bool

    def __str__(self) -> str:
        def listed(values: Mapping[str, Any]) -> str:
            return ", ".join(f"{key}={value!r}" for key, value in values.items()) or "nothing"

        what = f"{self.model} ({'a backbone alone' if self.headless else self.kind})"
        preprocessing, classes = self.facts.get("preprocessing"), self.facts.get("classes")
        lines = [
            f"model     {what}" + (f", by the key table {self.layout}" if self.layout else ", a file of segmentarium"),
            f"read      {listed(self.read)}",
            f"assumed   {listed(self.assumed)}",
            "images    "
            + (
                f"mean {tuple(preprocessing['mean'])}, std {tuple(preprocessing['std'])}"
                if preprocessing
                else "assumed to be normalised as the model's default says: nothing here tells"
            ),
            "classes   " + (", ".join(classes) if classes else "without names: nothing here tells them"),
        ]
        lines += [f"{key:<9} {self.facts[key]}" for key in ("dataset", "licences") if self.facts.get(key)]
        if self.report.dropped:
            lines.append(
                f"left out  {', '.join(self.report.dropped[:6])}{', …' if len(self.report.dropped) > 6 else ''}"
            )
        return "\n".join([*lines, str(self.report)])


def inspect_weights(source: str | Path | Mapping[str, Tensor], *, layout: str | None = None) -> Inspection:
    """Looks at weights without building their model.

    source  as `load` takes it, or a state dict
    layout  the key table to read it by, where several fit or none fits whole

    Raises FileNotFoundError, CheckpointError (damaged or unsafe file), LoadError and ValueError for keys that no table knows.
    """
    return inspected(open_weights(source, layout))


def inspected(stored: Stored) -> Inspection:
    """What is known of weights that were opened."""
    report = fit(stored.shapes(), stored.state, stored.rules)[1]
    read = dict(stored.arguments)
    if stored.layout is not None:
        read = arguments_of(stored.layout, stored.state) | read  # those that the variant has anyway, too
    table = stored.layout
    return Inspection(
        source=stored.label,
        model=stored.entry.name,
        kind=stored.entry.kind,
        layout="" if table is None else f"{table.name} ({table.source})" if table.source else table.name,
        read=read,
        assumed=stored.assumed(),
        facts=dict(stored.header),
        report=report,
        headless=stored.headless,
    )
