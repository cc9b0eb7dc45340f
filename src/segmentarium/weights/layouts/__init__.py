"""Other people's checkpoints.  One module a system, each with its `LAYOUTS`; recognised by full coverage of the keys."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Collection, Mapping
from functools import cache
from typing import Any

from torch import Tensor

from segmentarium.checks import did_you_mean
from segmentarium.meta import on_meta
from segmentarium.registry import entry
from segmentarium.weights.table import Layout, LoadError, LoadReport, fit, to_ours

# what reading another layout's arguments off a state dict, and building by them, ends in
UNFIT = (KeyError, IndexError, TypeError, ValueError)


@cache
def layouts() -> dict[str, Layout]:
    """Every known layout by name ("bisenetv2/coincheung")."""
    found = {}
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        for layout in getattr(importlib.import_module(module.name), "LAYOUTS", ()):
            found[layout.name] = layout
    return found


def get_layout(name: str) -> Layout:
    """The layout called `name`; KeyError that names near ones."""
    if name not in layouts():
        raise KeyError(f"no layout is called {name!r}{did_you_mean(name, sorted(layouts()))}")
    return layouts()[name]


def arguments_of(layout: Layout, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arguments of the model that `state` is of; ValueError where the keys and shapes do not tell them."""
    try:
        return layout.arguments(state)
    except UNFIT as error:
        raise ValueError(f"{layout.name} reads the model's arguments off keys that are not here: {error}") from error


def recognise(state: Mapping[str, Tensor], among: Collection[str] | None = None) -> Layout:
    """The one layout that has a rule for every key of `state` and whose model `state` fills.

    among   names of the layouts that come into question; None: all

    Candidates are built on the meta device: it costs no memory.  Raises LoadError with the report of the nearest layout if
    none fits, ValueError if there is no near one or several fit; then name the layout.
    """
    fitting = []
    for layout in layouts().values() if among is None else map(get_layout, among):
        try:
            report = _judge(layout, state)
        except UNFIT:
            continue
        if report.complete:
            fitting.append(layout)
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        names = ", ".join(layout.name for layout in fitting)
        raise ValueError(f"several layouts fit these keys ({names}); name one with layout=…")
    name, report = _nearest(state)
    unknown = f"no known layout has these keys ({', '.join(list(state)[:3])}, …)"
    if not report.loaded:
        ours = (
            "a state dict of ours alone does not say of which network it is: create_model(NAME, …).load_state_dict(it)"
        )
        raise ValueError(f"{unknown}; {ours}")
    raise LoadError(
        f"{unknown}; the nearest is {name!r}, where {len(report.loaded)} tensors fit: name it with layout={name!r}, and "
        "strict=False takes what fits",
        report,
    )


def _judge(layout: Layout, state: Mapping[str, Tensor]) -> LoadReport:
    """How `state` fits its layout's model."""
    return fit(shapes_of(layout.model, arguments_of(layout, state)), state, layout.rules)[1]


_SHAPES: dict[str, dict[str, Tensor]] = {}


def shapes_of(name: str, arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict on the meta device of the model `name` with its `arguments`, built once for each."""
    made_of = f"{name} {sorted(arguments.items())}"
    if made_of not in _SHAPES:
        found = entry(name)
        with on_meta():
            _SHAPES[made_of] = found.make(**found.completed(arguments)).state_dict()
    return _SHAPES[made_of]


def _nearest(state: Mapping[str, Tensor]) -> tuple[str, LoadReport]:
    """The name of the layout that fits best, and its report; where its arguments cannot be read, of its rules alone."""
    reports = {}
    for layout in layouts().values():
        try:
            reports[layout.name] = _judge(layout, state)
        except UNFIT:
            ours, unexpected, dropped = to_ours(state, layout.rules, {})
            reports[layout.name] = LoadReport(loaded=list(ours), unexpected=unexpected, dropped=dropped)
    return max(reports.items(), key=lambda item: len(item[1].loaded) - len(item[1].unexpected) - len(item[1].missing))
