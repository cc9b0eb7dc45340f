"""The report as one HTML page: tables, plot and pictures inside, no script, light and dark by the reader's setting."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from PIL import Image

if TYPE_CHECKING:
    from segmentarium.evaluation.base import BaseReport, Measured

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #5b6570; --line: #d9dee4;
  --paper: #fff; --tint: #f4f6f8; --bar: #3b73b9; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ec; --soft: #98a3ae; --line: #333b44; --paper: #14181d; --tint: #1c2229; --bar: #5b93d8; }
}
body { margin: 0 auto; max-width: 62rem; padding: 2rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2.5rem 0 .75rem; }
p.sub, figcaption, .legend { color: var(--soft); margin: .25rem 0 0; }
dl.scores { display: flex; flex-wrap: wrap; gap: .75rem; margin: 1.5rem 0; }
dl.scores div { background: var(--tint); border-radius: 8px; padding: .6rem 1rem; min-width: 6.5rem; }
dl.scores dt { color: var(--soft); font-size: .85rem; } dl.scores dd { margin: 0; font-size: 1.5rem; }
.note { border-left: 3px solid #c98a1b; background: var(--tint); padding: .5rem .9rem; margin: .6rem 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .9rem .3rem 0; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--soft); font-weight: 500; } th:first-child, td:first-child { text-align: left; }
.loud { font-weight: 600; color: #b3261e; }
td.bar { width: 12rem; padding-right: 0; }
td.bar span { display: block; height: .6rem; background: var(--bar); border-radius: 2px; }
.swatch { display: inline-block; width: .8rem; height: .8rem; border-radius: 2px; margin-right: .5rem;
  border: 1px solid var(--line); }
table.facts td { text-align: left; white-space: normal; vertical-align: top; } table.facts td:first-child { color: var(--soft); }
figure { margin: 1.25rem 0; } figure.small { display: inline-block; width: 12rem; margin-right: 1rem; vertical-align: top; }
 img { max-width: 100%; border-radius: 4px; }
.four { display: grid; grid-template-columns: repeat(auto-fit, minmax(12rem, 1fr)); gap: .4rem; } .four img { width: 100%; }
img.plot { background: #fff; padding: .5rem; box-sizing: border-box; }
"""


def page(report: Measured, plot: bytes | None = None) -> str:
    """The whole page.  plot: of a `BaseReport`, its confusion matrix as PNG."""
    title = f"{report.model['name']} on {report.data['name']} {report.data['split']}".strip()
    scores = "".join(f"<div><dt>{escape(n)}</dt><dd>{escape(v)}</dd></div>" for n, v in report.headline())
    warning = f'<p class="note loud" role="alert">Warning: {escape(report.warning)}</p>' if report.warning else ""
    notes = warning + "".join(f'<p class="note">{escape(note)}</p>' for note in report.notes)
    pictures = "" if plot is None else _pictures(report, plot)  # type: ignore[arg-type]
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title><style>{STYLE}</style></head><body>
<h1>{escape(title)}</h1>
<p class="sub">{escape(report.counted_line())}</p>
<dl class="scores">{scores}</dl>
{notes}
<h2>{escape(report.heading)}</h2>
<div class="scroll">{_table(report)}</div>
{pictures}
<h2>How it was measured</h2>
<div class="scroll">{_facts(report)}</div>
</body></html>
"""


def data_uri(data: bytes, kind: str) -> str:
    """Bytes of a picture as an address that carries them."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _pictures(report: BaseReport, plot: bytes) -> str:
    """The confusion matrix and the worst images."""
    confusion = f"""<h2>Confusion</h2>
<figure><img class="plot" alt="confusion matrix" src="{data_uri(plot, "png")}">
<figcaption>Each row: where the {report.counted} of a class went, in percent of that class.</figcaption></figure>
"""
    if not report.worst:
        return confusion
    worst = "".join(_figure(bad.caption, bad.panels(report.palette)) for bad in report.worst)
    return f'{confusion}<h2>Worst images</h2><p class="sub">{escape(report.worst_text)}</p>{worst}'


def _table(report: Measured) -> str:
    drawn = report.drawn()
    head = "".join(f"<th>{escape(column)}</th>" for column in (*report.columns(), *([""] if drawn else [])))
    body = []
    for i, (name, *values) in enumerate(report.rows()):
        swatch = bar = ""
        if drawn:
            colour, share = drawn[i]
            width = f"{100 * share:.1f}" if share == share else "0"  # NaN is not itself
            swatch = f'<span class="swatch" style="background:rgb{tuple(colour)}"></span>'
            bar = f'<td class="bar"><span style="width:{width}%"></span></td>'
        cells = "".join(f"<td>{escape(value)}</td>" for value in values)
        body.append(f"<tr><td>{swatch}{escape(name)}</td>{cells}{bar}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def _figure(caption: str, panels: Mapping[str, Image.Image]) -> str:
    images = []
    for what, picture in panels.items():
        buffer = io.BytesIO()
        kind = "jpeg" if what == "image" else "png"
        picture.save(buffer, format=kind.upper(), **({"quality": 85} if kind == "jpeg" else {"optimize": True}))
        images.append(f'<img alt="{escape(what)}" title="{escape(what)}" src="{data_uri(buffer.getvalue(), kind)}">')
    small = ' class="small"' if len(images) == 1 else ""  # beside each other
    return (
        f'<figure{small}><div class="four">{"".join(images)}</div><figcaption>{escape(caption)}</figcaption></figure>'
    )


def _facts(report: Measured) -> str:
    time = {"seconds": f"{report.seconds:.1f}", "seconds in the model": f"{report.model_seconds:.1f}"}
    parts: Iterable[Mapping[str, Any]] = (report.model, report.data, report.options, report.facts(), time)
    heads = ("model", "data", "options", "", "", "machine", "versions")
    rows = []
    for head, facts in zip(heads, (*parts, report.machine, report.versions), strict=True):
        for key, value in facts.items():
            shown = ", ".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else value
            rows.append(f"<tr><td>{escape(f'{head} {key}'.strip())}</td><td>{escape(str(shown))}</td></tr>")
    return f'<table class="facts"><tbody>{"".join(rows)}</tbody></table>'
