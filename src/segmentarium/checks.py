"""Checks of what people type, and what they are answered with."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

ENGINES = (
    "torch",
    "compile",
    "onnxruntime",
    "openvino",
    "auto",
    "cudagraph",
    "tensorrt",
)  # what computes; see inference/engines.py
PRECISIONS = ("fp32", "bf16", "fp16")


def check_choice(name: str, value: object, choices: Iterable[object]) -> None:
    """Raises ValueError unless `value`, given as the argument `name`, is one of `choices`."""
    choices = tuple(choices)
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; give one of {', '.join(map(repr, choices))}")


def did_you_mean(word: str, known: list[str]) -> str:
    """ "; did you mean 'a' or 'b'?" for a word that is close to known ones, else the list of all of them."""
    near = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    if near:
        return "; did you mean " + " or ".join(repr(name) for name in near) + "?"
    return f"; known: {', '.join(known)}"


def check_options(what: str, given: Iterable[str], known: list[str]) -> None:
    """Raises ValueError for an option that `what` does not have, with the nearest names."""
    for name in given:
        if name not in known:
            raise ValueError(f"{what} has no option {name!r}{did_you_mean(name, known)}")
