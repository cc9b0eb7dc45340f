"""Results as pictures: in a notebook, in a window, in a plot."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from segmentarium.brief import Brief
from segmentarium.files import png_bytes

if TYPE_CHECKING:
    from PIL import Image

NOTEBOOK = 1024  # pixels of the longer side that a notebook is given


class Shown(Brief):
    """A result that is looked at: what has an `overlay` shows that."""

    @property
    def picture(self) -> Image.Image:
        """What is shown."""
        return self.overlay  # type: ignore[attr-defined]

    def show(self) -> None:
        """Shows it: in a notebook below the cell, else in the system's viewer of pictures."""
        if "ipykernel" in sys.modules:
            from IPython.display import display  # pyright: ignore[reportMissingImports]

            display(self)
        else:
            self.picture.show()

    def plot(self, axes: Any = None) -> Any:
        """Draws it on matplotlib's `axes`, or on new ones, which are returned.  ImportError where that is not installed."""
        try:
            from matplotlib import pyplot
        except ImportError:
            raise ImportError("plot() needs matplotlib: pip install 'segmentarium[train]'") from None
        axes = axes if axes is not None else pyplot.subplots()[1]
        axes.imshow(self.picture)
        axes.set_axis_off()
        axes.set_title(getattr(self, "name", ""))
        return axes

    def _repr_png_(self) -> bytes:
        picture = self.picture
        picture.thumbnail((NOTEBOOK, NOTEBOOK))
        return png_bytes(picture)
