"""Name -> model.  `create_model` builds one, `list_models` names them, `model_card` tells what is known of them.

The index below says which module registers which names, so that listing imports nothing and creating imports one file;
a test compares it with what the files register.
"""

from __future__ import annotations

import difflib
import fnmatch
import importlib
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import resources
from typing import Any

from torch import nn

from segmentarium.index import MODULES


@dataclass(frozen=True)
class Paper:
    """Where a system comes from: what every model file states at its head."""

    title: str
    authors: str
    venue: str
    year: int
    url: str
    code: str = ""  # address of the authors' (or the public) implementation
    code_licence: str = ""


@dataclass(frozen=True)
class Card:
    """What is published of one variant, and what it cannot do here.

    parameters   millions, with `num_classes` classes; counted with the training-only branches or without, as published
    flops        1e9 multiply-adds of `forward` at `flops_size` (height, width)
    scores       benchmark and protocol -> published score
    limits       what this model truly cannot meet -> why.  The keys are the checks of the conformance suite: "parameters",
                 "flops" (published numbers that the published network does not have), "in_channels", "odd_sizes",
                 "gradients", "void", "learning", "deploy", "export", "compile", "autocast", "channels_last", "round_trip",
                 "one_class", "batch_of_one".  A limit that is no longer true fails the suite.
    """

    paper: Paper
    family: str
    parameters: float | None = None
    flops: float | None = None
    flops_size: tuple[int, int] | None = None
    num_classes: int | None = None
    scores: dict[str, float] = field(default_factory=dict)
    limits: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    name: str
    build: Callable[..., nn.Module]
    arguments: dict[str, Any]
    card: Card

    @property
    def kind(self) -> str:
        """ "backbone" for feature pyramids, "segmenter" for everything that returns logits."""
        return "backbone" if self.build.__module__.startswith("segmentarium.backbones") else "segmenter"


_ENTRIES: dict[str, Entry] = {}

# The field's other spellings of our arguments, answered with ours.
SPELLINGS = {
    "classes": "num_classes",
    "n_classes": "num_classes",
    "nclass": "num_classes",
    "num_labels": "num_classes",
    "in_chans": "in_channels",
    "channels": "in_channels",
    "encoder_name": "backbone",
    "encoder": "backbone",
    "encoder_output_stride": "output_stride",
}


def register(name: str, build: Callable[..., nn.Module], card: Card, **arguments: Any) -> None:
    """Called once for each variant at the foot of a model file: `create_model(name)` is `build(**arguments)`."""
    if name in _ENTRIES:
        raise ValueError(
            f"model {name!r} is registered twice: by {_ENTRIES[name].build.__module__} and {build.__module__}"
        )
    _ENTRIES[name] = Entry(name, build, arguments, card)


def did_you_mean(word: str, known: list[str]) -> str:
    """ "; did you mean 'a' or 'b'?" for a word that is close to known ones, else the list of all of them."""
    near = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    if near:
        return "; did you mean " + " or ".join(repr(name) for name in near) + "?"
    return f"; known: {', '.join(known)}"


def check_arguments(build: Callable[..., Any], name: str, arguments: dict[str, Any]) -> None:
    """Raises TypeError for an argument that `build` does not take, naming the one that was meant."""
    parameters = inspect.signature(build).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return
    for given in arguments:
        if given in parameters:
            continue
        right = SPELLINGS.get(given)
        if right in parameters:
            raise TypeError(f"{name} has no argument {given!r}: here it is called {right!r}")
        raise TypeError(f"{name} has no argument {given!r}{did_you_mean(given, sorted(parameters))}")


def entry(name: str) -> Entry:
    """The registry's entry of `name`; imports the one module that registers it.  KeyError for an unknown name."""
    module = next((module for module, names in MODULES.items() if name in names), None)
    if module is not None:
        importlib.import_module("segmentarium." + module)
    if name not in _ENTRIES:
        raise KeyError(f"no model is called {name!r}{did_you_mean(name, list_models())}")
    return _ENTRIES[name]


def variant_of(found: Entry, arguments: dict[str, Any]) -> tuple[Entry, dict[str, Any]]:
    """`found` built with `arguments` may be another registered variant -> that variant, and what is left of the arguments.

    A checkpoint's arguments are read off its shapes; this names the model that they make ("segformer_b2").
    """
    merged = {**found.arguments, **arguments}
    names = next((names for names in MODULES.values() if found.name in names), (found.name,))
    fitting = [
        other
        for other in map(entry, names)
        if other.build is found.build
        and all(key in merged and merged[key] == value for key, value in other.arguments.items())
    ]
    best = max(fitting, key=lambda other: (len(other.arguments), other.name == found.name), default=None)
    if best is None:
        return found, dict(arguments)
    return best, {key: value for key, value in merged.items() if key not in best.arguments}


def without_fetching(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A model's arguments without those that fetch weights: for building one whose weights are at hand."""
    return {
        key: without_fetching(value) if isinstance(value, Mapping) else value
        for key, value in arguments.items()
        if key not in ("pretrained", "backbone_weights")
    }


def remember(model: Any, name: str, arguments: Mapping[str, Any]) -> None:
    """Notes on a model what it was made by, so that a file of its weights can rebuild it: without fetching others first."""
    model.registered_name, model.given_arguments = name, without_fetching(arguments)


def create_model(
    name: str, *, weights: str | None = None, backbone_weights: str | None = None, **arguments: Any
) -> nn.Module:
    """Builds the model `name`, e.g. "bisenetv2", "deeplabv3plus" or "segformer_b0".

    name               `NAME` or `NAME.TAG`; the tag names weights of the catalogue ("bisenetv2.camvid")
    weights            a catalogue name, a path or a hub address whose weights are loaded into the model; with another
                       `num_classes` or `in_channels` than theirs, the head is new and the first convolution adapted, and
                       both are reported
    backbone_weights   the same for the backbone alone, or "timm:NAME" for what timm publishes
    arguments          those of the model's class: num_classes, in_channels, backbone, output_stride, ...

    Raises KeyError for an unknown name and TypeError for an unknown argument, each naming what was probably meant.
    """
    base, _, tag = name.partition(".")
    found = entry(base)
    for given in ("pretrained", "encoder_weights"):
        if given in arguments:
            right = "backbone_weights" if "backbone" in inspect.signature(found.build).parameters else "weights"
            also = " or 'timm:NAME'" if right == "backbone_weights" else ""
            raise TypeError(
                f"{name} has no argument {given!r}: here it is called {right!r} (a catalogue name, a path, a hub address{also})"
            )
    merged = {**found.arguments, **arguments}
    check_arguments(found.build, name, merged)
    doors = {"the name": name if tag else None, "weights": weights, "backbone_weights": backbone_weights}
    if len(given := [f"{door} ({value!r})" for door, value in doors.items() if value]) > 1:
        raise ValueError(f"{' and '.join(given)} both name weights; give one of them")
    if tag or weights:
        from segmentarium.weights import load_into

        return load_into(weights or name, found, arguments)
    model = found.build(**merged)
    remember(model, base, arguments)
    if backbone_weights:
        from segmentarium.weights import load_part

        load_part(model, "backbone", backbone_weights)
    return model


def list_models(pattern: str = "*", *, family: str | None = None, kind: str | None = None) -> list[str]:
    """The registered names that fit a shell pattern ("segformer*"), of one family ("realtime") or kind
    ("segmenter", "backbone"), in alphabetical order."""
    found = []
    for module, names in MODULES.items():
        room = module.split(".")[0]
        if family not in (None, room) or kind not in (None, "backbone" if room == "backbones" else "segmenter"):
            continue
        found += fnmatch.filter(names, pattern)
    return sorted(found)


def model_card(name: str) -> dict[str, Any]:
    """The card of `name` as plain data: paper, published parameters (millions), FLOPs (1e9 multiply-adds) and scores.

    "counted" has parameters and FLOPs of the model here, without what only training uses; None for names registered elsewhere.
    """
    found = entry(name)
    counted = _counted().get(name)
    return {
        "name": name,
        "kind": found.kind,
        "arguments": dict(found.arguments),
        **asdict(found.card),
        "counted": counted,
    }


@cache
def _counted() -> dict[str, Any]:
    """Written by docs/generate.py: counting all takes half a minute."""
    return json.loads(resources.files("segmentarium").joinpath("counted.json").read_text(encoding="utf-8"))
