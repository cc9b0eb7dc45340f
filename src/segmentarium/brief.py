"""What `repr` says of results and reports: one line, whatever arrays, pictures and lists they hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sized
from typing import Any

LONGEST = 110  # characters of a line


class Brief:
    """A dataclass, made with `repr=False`, that says in a line what it is."""

    def told(self) -> str:
        """What stands between the brackets; default: the fields, arrays as their shapes, lists as their lengths."""
        fields = dataclasses.fields(self) if dataclasses.is_dataclass(self) else ()
        return ", ".join(f"{one.name}={short(getattr(self, one.name))}" for one in fields if one.repr)

    def __repr__(self) -> str:
        text = f"{type(self).__name__}({self.told()}"
        return text + ")" if len(text) < LONGEST else text[: LONGEST - 2] + "…)"


def short(value: Any) -> str:
    """A value in a few words."""
    if isinstance(value, str | int | float | bool | None):
        return f"{value:.4g}" if isinstance(value, float) else repr(value)
    if hasattr(value, "shape"):
        return f"{'×'.join(map(str, value.shape))} {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, Mapping) or (isinstance(value, Sized) and len(value) > 3):
        return f"<{len(value)} {'keys' if isinstance(value, Mapping) else 'entries'}>"
    text = repr(value)
    return text if len(text) <= 40 and "\n" not in text else f"<{type(value).__name__}>"
