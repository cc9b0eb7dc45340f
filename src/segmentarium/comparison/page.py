"""The comparison as one HTML page: plot, tables and pictures inside, no script, nothing loaded from anywhere."""

from __future__ import annotations

import math
import shlex
from dataclasses import fields
from html import escape
from pathlib import Path
from typing import Any

from segmentarium.benchmarking.machine import describe
from segmentarium.comparison.engine import ComparisonOptions
from segmentarium.comparison.outcome import AGREES, Comparison, Outcome
from segmentarium.comparison.plot import scatter
from segmentarium.evaluation.base import percent
from segmentarium.evaluation.html import STYLE, data_uri
from segmentarium.files import write_text

EXTRA_STYLE = """
td.best { font-weight: 700; } tr.front td:first-child { color: var(--bar); font-weight: 600; }
td.missing { color: var(--soft); }
pre { background: var(--tint); padding: .7rem .9rem; overflow-x: auto; border-radius: 6px; font-size: 13px; }
.side { display: grid; grid-template-columns: repeat(auto-fill, minmax(14rem, 1fr)); gap: .6rem; margin-bottom: 1.5rem; }
.side figure { margin: 0; } .side img { width: 100%; display: block; } .side figcaption { font-size: .85rem; }
.keys span.key { margin-right: 1rem; white-space: nowrap; }
"""


def write_page(comparison: Comparison, folder: Path) -> Path:
    """Writes comparison.html, .json, .csv and .md, each whole or not at all; returns the page's path."""
    texts = {"json": comparison.json(), "csv": comparison.csv(), "md": comparison.markdown(), "html": page(comparison)}
    for ending, text in texts.items():
        write_text(folder / f"comparison.{ending}", text)
    return folder / "comparison.html"


def page(comparison: Comparison) -> str:
    """The whole page."""
    data = comparison.data
    count = len(comparison.outcomes)
    title = f"{count} model{'s' if count != 1 else ''} on {data['name']} {data['split']}"
    plot = scatter(comparison)
    figure = ""
    if plot is not None:
        figure = (
            f'<figure><img class="plot" alt="accuracy against latency" src="{data_uri(plot, "png")}"><figcaption>'
            "Blue: on the Pareto front; no other model is both as fast and as accurate. A model's latency is that of its "
            "fastest form on this machine.</figcaption></figure>"
        )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title><style>{STYLE}{EXTRA_STYLE}</style></head><body>
<h1>{escape(title)}</h1>
<p class="sub">{data["images"]} images scored, {len(data["classes"])} classes; {escape(_budget(comparison))}. 
{_protocol(comparison)}. Scores in percent, higher is better.</p>
{_notes(comparison)}
<h2>Accuracy against latency</h2>
{figure or '<p class="sub">No model is both scored and timed yet.</p>'}
<h2>Summary</h2>
<div class="scroll">{_summary(comparison)}</div>
<p class="legend">{escape(_legend(comparison))}</p>
<h2>{comparison.measures.by_class[1]} by class</h2>
<div class="scroll">{_classes(comparison)}</div>
<h2>The same images</h2>
{_pictures(comparison)}
<h2>How to reproduce</h2>
{_reproduce(comparison)}
</body></html>
"""


def _budget(comparison: Comparison) -> str:
    trained = sum(1 for o in comparison.outcomes if o.origin.startswith(("trained", "recipe")))
    if trained == len(comparison.outcomes) or not trained:
        return comparison.options["budget_sentence"] if trained else "loaded weights, nothing trained"
    return f"{trained} of them trained ({comparison.options['budget_sentence']}), the others loaded"


def _protocol(comparison: Comparison) -> str:
    """How the images were looked at, as the reports say it."""
    found = {o.scores["options"]["protocol"] for o in comparison.outcomes if o.scores}
    return escape("; ".join(sorted(found)).capitalize() or "Nothing is scored yet")


def _notes(comparison: Comparison) -> str:
    lines = []
    for outcome in comparison.outcomes:
        lines += [f"{outcome.label}: {phase} failed: {text}" for phase, text in outcome.problem.items()]
        lines += [f"{outcome.label}: {note}" for note in (outcome.scores or {}).get("notes", ())]
    facts = comparison.machine
    if facts["load_average"] and facts["cores"] and facts["load_average"] > facts["cores"] / 2:
        lines.append("The machine was busy with other work: take the latencies as a hint only.")
    return "".join(f'<p class="note">{escape(line)}</p>' for line in lines)


def _table(head: list[str], rows: list[tuple[str, list[str]]]) -> str:
    """rows: (class of the row, its cells as HTML)."""
    top = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join(f'<tr class="{kind}">{"".join(cells)}</tr>' for kind, cells in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _cell(text: str, best: bool = False) -> str:
    kind = ' class="missing"' if text == "–" else ' class="best"' if best else ""
    return f"<td{kind}>{text}</td>"


def _summary(comparison: Comparison) -> str:
    ranked, front = comparison.ranked, comparison.front
    told = {key: name for key, name in comparison.measures.columns.items() if key != "macc"}
    sizes = {"×".join(map(str, o.facts["size"])) for o in ranked if o.facts}
    at = f" at {sizes.pop()}" if len(sizes) == 1 else ""
    head = [
        "model",
        *told.values(),
        "M parameters",
        f"GFLOPs{at}",
        *(f"{f}, ms" for f in comparison.forms),
    ]
    head += ["training", "published"]

    def most(name: str) -> float:
        values = [(o.scores or {}).get(name) for o in ranked]
        return max((v for v in values if v is not None), default=math.nan)

    least = {
        form: min((s for o in ranked if (s := _latency(o, form)) is not None), default=None)
        for form in comparison.forms
    }
    rows = []
    for o in ranked:
        cells = [_cell(escape(o.label))]
        for name in told:
            value = (o.scores or {}).get(name)
            cells.append(_cell(percent(value), value is not None and value == most(name)))
        cells.append(_cell(f"{o.facts['parameters']:.2f}" if o.facts else "–"))
        own = "" if at or not o.facts else f" at {'×'.join(map(str, o.facts['size']))}"
        cells.append(_cell(f"{o.facts['multiply_adds']:.2f}{own}" if o.facts else "–"))
        for form in comparison.forms:
            value = _latency(o, form)
            cells.append(_cell("–" if value is None else f"{value:.1f}", value is not None and value == least[form]))
        cells.append(_cell(_training(o)))
        published = ", ".join(f"{score:g} ({what})" for what, score in o.facts.get("published", {}).items())
        cells.append(_cell(escape(published) or "–"))
        rows.append(("front" if o.label in front else "", cells))
    return _table(head, rows)


def _latency(outcome: Outcome, form: str) -> float | None:
    return outcome.speed.get(form, {}).get("p50")


def _training(outcome: Outcome) -> str:
    if outcome.training is None:
        return escape(outcome.origin) if outcome.weights else "–"
    return f"{outcome.training['steps']} steps, {outcome.training['seconds'] / 60:.1f} min"


def _legend(comparison: Comparison) -> str:
    forms = sorted(
        {f"{form}: {s['problem']}" for o in comparison.outcomes for form, s in o.speed.items() if s.get("skipped")}
    )
    odd = [
        f"{o.label} as {form} gives another class to {1 - s['same_class']:.1%} of what was compared, "
        "so its time does not count as the model's"
        for o in comparison.outcomes
        for form, s in o.speed.items()
        if s.get("same_class") is not None and s["same_class"] < AGREES
    ]
    words = [
        "Blue names are on the Pareto front; bold figures are the best of their column. GFLOPs are 1e9 multiply-adds and "
        "parameters those of inference. Latency: median of one picture, on the processor, in a process of its own.",
        *(f"Not measured: {line}." for line in forms),
        *(f"{line}." for line in odd),
    ]
    return " ".join(words)


def _classes(comparison: Comparison) -> str:
    scored = [o for o in comparison.ranked if o.scores]
    if not scored:
        return '<p class="sub">Nothing is scored yet.</p>'
    measures = comparison.measures
    first: dict[str, Any] = scored[0].scores or {}
    shares = measures.shares(first)
    head = ["class", measures.share[1], *(escape(o.label) for o in scored)]
    rows = []
    for place, name in enumerate(measures.of_classes(first)):
        values = [measures.of_classes(o.scores or {}).get(name) for o in scored]
        best = max((v for v in values if v is not None), default=None)
        cells = [_cell(_key(comparison, place, name)), _cell(percent(shares.get(name)))]
        rows.append(("", cells + [_cell(percent(v), v is not None and v == best) for v in values]))
    mean = [_cell("mean"), _cell("")] + [_cell(percent((o.scores or {})[measures.mean])) for o in scored]
    return _table(head, [*rows, ("", mean)])


def _key(comparison: Comparison, place: int, name: str) -> str:
    palette = comparison.data["palette"]
    colour = tuple(palette[place]) if place < len(palette) else (255, 64, 64)
    return f'<span class="swatch" style="background:rgb{colour}"></span>{escape(name)}'


def _pictures(comparison: Comparison) -> str:
    if not comparison.pictures:
        return '<p class="sub">None were asked for.</p>'
    parts = []
    if comparison.data["task"] != "classification":  # what the colours mean
        names = enumerate(comparison.data["classes"])
        keys = "".join(f'<span class="key">{_key(comparison, place, name)}</span>' for place, name in names)
        parts = [f'<p class="legend keys">{keys}</p>']
    for picture in comparison.pictures:
        shown = picture["models"]
        figures = [*picture["given"], *((o.label, *shown[o.label]) for o in comparison.ranked if o.label in shown)]
        cells = []
        for what, content, said in figures:
            image = content and f'<img alt="{escape(what)}" src="{data_uri(content, "jpeg")}">'
            text = f"{what}, {said}" if said else what
            cells.append(f"<figure>{image or ''}<figcaption>{escape(text)}</figcaption></figure>")
        parts.append(f'<p class="sub">{escape(picture["name"])}</p><div class="side">{"".join(cells)}</div>')
    return "".join(parts)


def _reproduce(comparison: Comparison) -> str:
    parts = []
    if comparison.command:
        parts.append(f'<p class="sub">This page</p><pre>{escape(comparison.command)}</pre>')
    lines = []
    for outcome in comparison.ranked:
        lines.append(f"# {outcome.label}: {outcome.origin}")
        lines += outcome.training["commands"] if outcome.training else []
        if outcome.weights:
            weights = str(outcome.weights)
            lines.append(shlex.join(["segmentarium", "evaluate", "--model", weights, *_data_words(comparison.options)]))
            size = "x".join(map(str, outcome.facts.get("size", ())))
            if size:
                forms = ",".join(comparison.forms)
                words = ["segmentarium", "benchmark", weights, "--size", size, "--engines", forms, "--model-only"]
                lines.append(shlex.join([*words, *_given(comparison.options, "threads", "repeats")]))
    parts.append(f'<p class="sub">One model at a time</p><pre>{escape(chr(10).join(lines))}</pre>')
    parts.append(f'<p class="sub">Machine and versions: {escape(describe(comparison.machine))}</p>')
    licence = comparison.data["licence"]
    parts.append(f'<p class="sub">Licence of the data, and of weights that were trained on them: {escape(licence)}</p>')
    return "".join(parts)


def _data_words(options: dict[str, Any]) -> list[str]:
    """What `segmentarium evaluate` is told so that it scores the same pictures in the same way."""
    root = options["root"]
    here = Path.cwd()
    shown = Path(root).relative_to(here) if Path(root).is_relative_to(here) else root
    words = ["--data", options["data"], "--root", str(shown), "--split", options["split"]]
    if masks := options["data_arguments"].get("mask_map"):
        pairs = masks if isinstance(masks, str) else ",".join(f"{value}:{label}" for value, label in masks.items())
        words += ["--mask-map", pairs]
    more = {name: value for name, value in options["data_arguments"].items() if name != "mask_map"}
    if more:
        words += ["--data-set-options", *(f"{name}={_word(value)}" for name, value in more.items())]
    return [*words, *_given(options, "task", "limit", "boundary_ratio")]


def _word(value: Any) -> str:
    """A value of `--data-set-options`."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _given(options: dict[str, Any], *names: str) -> list[str]:
    """The flags of those options that are not as they are by themselves."""
    standard = {item.name: item.default for item in fields(ComparisonOptions)}
    return [
        word
        for name in names
        if options[name] != standard[name]
        for word in (f"--{name.replace('_', '-')}", str(options[name]))
    ]
