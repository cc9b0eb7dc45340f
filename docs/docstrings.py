"""What mkdocstrings reads of docstrings: their aligned lists as lists of Markdown.  An extension of griffe."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from griffe import Extension, Object  # pyright: ignore[reportMissingImports]

sys.path.insert(0, str(Path(__file__).resolve().parent))
from prose import markdown


class Lists(Extension):
    """Rewrites each docstring once it is read."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)
