"""Accuracy against latency as a picture, with the front of those that nobody beats in both."""

from __future__ import annotations

import io
import math
from typing import Any

from segmentarium.comparison.outcome import Comparison

# Offsets of a name from its point, in pixels, and how the name is aligned there; the first free one is taken.
PLACES = (
    (7, 0, "left", "center"), (-7, 0, "right", "center"), (0, 8, "center", "bottom"), (0, -8, "center", "top"),
    (6, 7, "left", "bottom"), (6, -7, "left", "top"), (-6, 7, "right", "bottom"), (-6, -7, "right", "top"),
    (6, 17, "left", "bottom"), (6, -17, "left", "top"), (-6, 17, "right", "bottom"), (-6, -17, "right", "top"),
)  # fmt: skip


def scatter(comparison: Comparison) -> bytes | None:
    """A PNG; None where no candidate is both scored and timed.  Raises ImportError where matplotlib is not installed."""
    points = [o for o in comparison.outcomes if not math.isnan(o.latency) and not math.isnan(o.score)]
    if not points:
        return None
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("the plot of a comparison needs matplotlib: pip install 'segmentarium[train]'") from None
    figure = Figure(figsize=(8.6, 5.2), dpi=130, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    front = comparison.front
    on_it = sorted((o for o in points if o.label in front), key=lambda o: o.latency)
    axes.step(  # whoever accepts this latency gets this accuracy
        [o.latency for o in on_it],
        [100 * o.score for o in on_it],
        where="post",
        color="#3b73b9",
        lw=1.2,
        label="Pareto front",
    )
    for chosen, colour in ((True, "#3b73b9"), (False, "#9aa5b1")):
        part = [o for o in points if (o.label in front) == chosen]
        axes.scatter([o.latency for o in part], [100 * o.score for o in part], s=42, color=colour, zorder=3)
    latencies = [o.latency for o in points]
    if max(latencies) > 4 * min(latencies):
        axes.set_xscale("log")
        from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(0.16, 0.12)
    axes.set_axisbelow(True)
    axes.grid(color="#e3e7eb", lw=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("median latency of the fastest form, ms a picture (left is better)")
    axes.set_ylabel(f"{comparison.measures.name}, % (up is better)")
    axes.legend(loc="lower right", frameon=False, fontsize=8)
    canvas.draw()
    _name_points(axes, canvas.get_renderer(), points, front)
    file = io.BytesIO()
    canvas.print_png(file)
    return file.getvalue()


def _name_points(axes: Any, renderer: Any, points: list[Any], front: list[str]) -> None:
    """Each name beside its point, where it covers neither another name nor a point, if there is such a place."""
    from matplotlib.transforms import Bbox

    spots = [axes.transData.transform((o.latency, 100 * o.score)) for o in points]
    taken = [Bbox.from_bounds(x - 5, y - 5, 10, 10) for x, y in spots]
    for own, outcome in enumerate(points):
        best: tuple[int, Any] | None = None
        # The front's line leaves a point to the right and comes from below: its name stands above.
        places = sorted(PLACES, key=lambda place: place[3] != "bottom") if outcome.label in front else PLACES
        for dx, dy, horizontal, vertical in places:
            text = axes.annotate(
                outcome.label,
                (outcome.latency, 100 * outcome.score),
                (dx, dy),
                textcoords="offset points",
                ha=horizontal,
                va=vertical,
                fontsize=8.5,
                fontweight="bold" if outcome.label in front else "normal",
            )
            box = text.get_window_extent(renderer)
            hits = sum(box.overlaps(other) for i, other in enumerate(taken) if i != own)
            if best is None or hits < best[0]:
                if best is not None:
                    best[1].remove()
                best = (hits, text)
            else:
                text.remove()
            if not hits:
                break
        assert best is not None
        taken.append(best[1].get_window_extent(renderer))
