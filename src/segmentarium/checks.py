"""Checks of what people type."""

from __future__ import annotations

from collections.abc import Iterable


def check_choice(name: str, value: object, choices: Iterable[object]) -> None:
    """Raises ValueError unless `value`, given as the argument `name`, is one of `choices`."""
    choices = tuple(choices)
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; give one of {', '.join(map(repr, choices))}")
