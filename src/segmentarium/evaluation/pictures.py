"""The confusion matrix as a picture, and picture strips of the worst images."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

MOST_NUMBERS = 24  # classes up to which each cell holds its number, and each axis its names
NEEDS_MATPLOTLIB = (
    "the plot of the confusion matrix needs matplotlib: pip install 'segmentarium[train]', "
    "or leave out the report's folder (--out) and take the numbers as JSON (--json)"
)


def confusion_plot(confusion: np.ndarray, names: Sequence[str], counted: str) -> bytes:
    """A PNG: each row the share of what is counted of a class that went to each prediction.

    confusion: (K, K) counts, rows = target.  Raises ImportError where matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError(NEEDS_MATPLOTLIB) from None
    count = len(names)
    share = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    side = float(np.clip(1.8 + 0.5 * count, 4.0, 13.0))
    # Figure and canvas by hand: pyplot would keep a global state and might look for a display.
    figure = Figure(figsize=(side + 0.6, side), dpi=110, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    drawn = axes.imshow(share, vmin=0, vmax=1, cmap="Blues")
    axes.set_xlabel("predicted")
    axes.set_ylabel("labelled")
    if count <= MOST_NUMBERS:
        axes.set_xticks(range(count), names, rotation=45, ha="right", rotation_mode="anchor", fontsize=8)
        axes.set_yticks(range(count), names, fontsize=8)
        for i, j in np.ndindex(count, count):
            if share[i, j] >= 0.005:
                colour = "white" if share[i, j] > 0.55 else "black"
                axes.text(j, i, f"{100 * share[i, j]:.0f}", ha="center", va="center", fontsize=7, color=colour)
    figure.colorbar(drawn, ax=axes, shrink=0.8, label=f"share of the class's {counted}")
    buffer = io.BytesIO()
    canvas.print_png(buffer)
    return buffer.getvalue()


def strip(pictures: Sequence[Image.Image], gap: int = 6) -> Image.Image:
    """Pictures of one size beside each other on white."""
    width, height = pictures[0].size
    result = Image.new("RGB", (len(pictures) * (width + gap) - gap, height), "white")
    for i, picture in enumerate(pictures):
        result.paste(picture, (i * (width + gap), 0))
    return result
