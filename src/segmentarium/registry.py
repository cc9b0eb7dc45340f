"""Name -> model.  `create_model` builds one, `list_models` names them, `model_card` tells what is known of them.

`models.json`, written by docs/generate.py from the model files, says which module registers which names, so that listing
imports nothing and creating imports one file.
"""

from __future__ import annotations

import fnmatch
import importlib
import inspect
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, Literal

from segmentarium.checks import did_you_mean

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from segmentarium.contracts import Backbone, Model
    from segmentarium.contracts.insertion import At


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


# what networks of tokens, and those that are normalised by layer, bear from scratch: `Card.training` of theirs
TOKENS: Mapping[str, Any] = {"learning_rate": 3e-4, "weight_decay": 0.05}


@dataclass(frozen=True, kw_only=True)
class Card:
    """What is published of one variant, and what it cannot do here.

    parameters   millions, with `num_classes` classes, as published: of "inference", without the branches that only training
                 uses, or of "training", with them (`parameters_of`)
    flops        1e9 multiply-adds of `forward` at `flops_size` (height, width)
    scores       benchmark and protocol -> published score
    limits       what this model truly cannot meet -> why.  The keys are the checks of the conformance suite: "parameters",
                 "flops" (published numbers that the published network does not have), "in_channels", "odd_sizes",
                 "gradients", "void", "learning", "deploy", "export", "compile", "autocast", "channels_last", "round_trip",
                 "one_class", "batch_of_one", "start".  A limit that is no longer true fails the suite.
    training     options of training (of `training.options.FITTED`) that it needs where nobody says, other than all others have
    """

    paper: Paper
    parameters: float | None = None
    parameters_of: Literal["inference", "training"] = "inference"
    flops: float | None = None
    flops_size: tuple[int, int] | None = None
    num_classes: int | None = None
    scores: dict[str, float] = field(default_factory=dict)
    limits: dict[str, str] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """A registered variant: `build(**arguments)` makes the model, or the backbone that a classifier is made of."""

    name: str
    build: Callable[..., Any]
    arguments: dict[str, Any]
    card: Card
    module: str  # that registers it, below segmentarium: "backbones.resnet"
    tiny: dict[str, Any] = field(default_factory=dict)  # arguments that make the same code small, for tests

    @property
    def family(self) -> str:
        """The room of the model's file: "backbones", "realtime", …"""
        return self.module.partition(".")[0]

    @property
    def kind(self) -> str:
        """What `create_model` makes of it: "segmenter", "classifier", … (`Model.kind`)."""
        return self.build.kind  # type: ignore[attr-defined]

    def takes(self, argument: str) -> bool:
        """Whether the model has an argument of that name."""
        return argument in inspect.signature(self.build).parameters

    def tiny_arguments(self) -> dict[str, Any]:
        """Arguments of a small form of this very code; a network's own backbone is made small where it has such a form."""
        backbone = self.arguments.get("backbone")
        if backbone is None or not self.takes("backbone_arguments"):
            return dict(self.tiny)
        return {
            "backbone_arguments": {**self.arguments.get("backbone_arguments", {}), **entry(backbone).tiny},
            **self.tiny,
        }

    def completed(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """These arguments over the variant's own; with the published number of classes where a network needs one.

        What the variant says of its own backbone holds for no other.
        """
        own = dict(self.arguments)
        inner = own.pop("backbone_arguments", {})
        merged = {**own, **arguments}
        if inner and merged.get("backbone") == own.get("backbone"):
            merged["backbone_arguments"] = {**inner, **(arguments.get("backbone_arguments") or {})}
        wanted = inspect.signature(self.build).parameters.get("num_classes")
        if wanted is not None and wanted.default is wanted.empty and self.card.num_classes is not None:
            merged.setdefault("num_classes", self.card.num_classes)
        return merged

    def make(self, **arguments: Any) -> Any:
        """`build(**arguments)`.  Two arguments every network has: `insertions`, the blocks that are put into its backbone, each
        told as to `insert_block`; and `dbb=True`, which then puts Diverse Branch Blocks in place of its k×k convolutions, or
        `dbb="backbone.*"` of those whose names fit (`segmentarium.with_dbb`)."""
        dbb, insertions = arguments.pop("dbb", False), arguments.pop("insertions", ())
        made = self.build(**arguments)
        for told in insertions:
            insert_block(made, **told)
        return _with_blocks(made, dbb)

    def model(self, **arguments: Any) -> Model:
        """The model with these arguments over the variant's own; without a number of classes, with the published one."""
        merged = self.completed(arguments)
        if self.kind == "classifier" and merged.get("num_classes") is None:
            merged["num_classes"] = self.card.num_classes
        check_arguments(self.build, self.name, merged)
        built = self.make(**merged)
        if self.kind != "classifier":
            return built
        from segmentarium.contracts import Classifier

        return Classifier(built)


def _with_blocks(built: Any, dbb: bool | str) -> Any:
    if not isinstance(dbb, bool | str):
        raise ValueError(f"dbb is {dbb!r}; give True, or shell patterns of the convolutions' names")
    if dbb:
        from segmentarium.reparameterize import with_dbb

        with_dbb(built, "*" if dbb is True else dbb)
    return built


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


def register(
    name: str, build: Callable[..., Any], card: Card, *, tiny: Mapping[str, Any] | None = None, **arguments: Any
) -> None:
    """Called once for each variant at the foot of a model file: `create_model(name)` is `build(**arguments)`.

    build   the model's class, or a backbone's, or what `register_decoder` makes of a decoder's
    tiny    arguments that make the same code small (fewer channels and blocks, never another backbone): the conformance
            suite examines that.  A network on a backbone that has such a form needs none
    """
    module = _caller()
    if name in _ENTRIES:
        raise ValueError(f"model {name!r} is registered twice: by {_ENTRIES[name].module} and {module}")
    _ENTRIES[name] = Entry(name, build, arguments, card, module, dict(tiny or {}))


def _caller() -> str:
    """The model file that is being imported: the nearest one up the stack that is not one of the registering functions'."""
    frame = sys._getframe(2)
    while frame.f_back and frame.f_globals["__name__"] in REGISTERING:
        frame = frame.f_back
    return frame.f_globals["__name__"].removeprefix("segmentarium.")


REGISTERING = ("segmentarium.registry", "segmentarium.composition")


@cache
def known() -> dict[str, dict[str, Any]]:
    """Name -> what can be told of a model without importing it (models.json): its module and kind, its paper's venue,
    year and url, "parameters", "flops" and "flops_size" as counted here, "published" of the same, and scores."""
    return json.loads(resources.files("segmentarium").joinpath("models.json").read_text(encoding="utf-8"))


def check_arguments(build: Callable[..., Any], name: str, arguments: dict[str, Any]) -> None:
    """Raises TypeError for an argument that `build` does not take, naming the one that was meant."""
    parameters = inspect.signature(build).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return
    for given in arguments:
        if given in parameters or given in ("dbb", "insertions"):  # see `Entry.make`
            continue
        right = SPELLINGS.get(given)
        if right in parameters:
            raise TypeError(f"{name} has no argument {given!r}: here it is called {right!r}")
        raise TypeError(f"{name} has no argument {given!r}{did_you_mean(given, sorted(parameters))}")


def entry(name: str) -> Entry:
    """The registry's entry of `name`; imports the one module that registers it.  KeyError for an unknown name."""
    if name.startswith("timm:"):
        from segmentarium.backbones.timm import timm_entry

        return timm_entry(name)
    if name in known():
        importlib.import_module(f"segmentarium.{known()[name]['module']}")
    if name not in _ENTRIES:
        from segmentarium.weights.names import no_model

        raise KeyError(f"no model is called {name!r}{no_model(name)}")
    return _ENTRIES[name]


def registered(module: str) -> list[Entry]:
    """What a module below segmentarium registers ("realtime.enet"), in its order; imports it."""
    importlib.import_module(f"segmentarium.{module}")
    return [found for found in _ENTRIES.values() if found.module == module]


UNSEEN = ("drop_path", "dropout")  # arguments that no trained weights depend on


def unseen(name: str) -> bool:
    """Whether trained weights tell nothing of the argument `name`."""
    return any(word in name for word in UNSEEN)


def variant_of(found: Entry, arguments: dict[str, Any]) -> tuple[Entry, dict[str, Any]]:
    """`found` built with `arguments` may be another registered variant -> that variant, and what is left of the arguments.

    A checkpoint's arguments are read off its shapes; this names the model that they make ("segformer_b2").  Those that leave no
    trace (`unseen`) tell no variants apart, and are each variant's own where nobody gave them.
    """
    merged = {**{key: value for key, value in found.arguments.items() if not unseen(key)}, **arguments}
    fitting = [
        other
        for other in _ENTRIES.values()
        if other.build is found.build
        and all(unseen(key) or (key in merged and merged[key] == value) for key, value in other.arguments.items())
    ]
    best = max(fitting, key=lambda other: (len(other.arguments), other.name == found.name), default=None)
    if best is None:
        return found, dict(arguments)
    own = best.arguments
    return best, {key: value for key, value in merged.items() if key not in own or own[key] != value}


def without_fetching(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A model's arguments without those that fetch weights: for building one whose weights are at hand."""
    return {
        key: without_fetching(value) if isinstance(value, Mapping) else value
        for key, value in arguments.items()
        if key not in ("pretrained", "backbone_weights")
    }


def remember(model: Model, name: str, arguments: Mapping[str, Any]) -> None:
    """Notes on a model what it was made by, so that a file of its weights can rebuild it: without fetching others first."""
    model.registered_name, model.given_arguments = name, without_fetching(arguments)


def create_model(
    name: str,
    *,
    weights: str | Path | None = None,
    backbone_weights: str | Path | None = None,
    accept_licence: bool = False,
    **arguments: Any,
) -> Model:
    """Builds the model `name`, e.g. "bisenetv2", "deeplabv3plus", "segformer_b0", or a classifier: "resnet50".

    name              `NAME` or `NAME.TAG`; the tag names weights of the catalogue ("bisenetv2.camvid"), or published ones
                      ("pspnet_resnet50.cityscapes-mmseg", see `segmentarium.list_published`), which are fetched
    weights           a catalogue name, a path or a hub address whose weights are loaded into the model; with another
                      `num_classes` or `in_channels` than theirs, the head is new and the first convolution adapted, and
                      both are reported
    backbone_weights  the same for the backbone alone: a file of one, of a classifier or of a model that has it, "timm:NAME", or
                      "imagenet": what is published for it
    accept_licence    consent to the licence of published weights that is not free or not stated
    arguments         those of the model's class: num_classes, in_channels, backbone, output_stride, ...; without num_classes
                      there are as many as published.  For all of them: `dbb=True`, Diverse Branch Blocks in place of the
                      k×k convolutions (`segmentarium.with_dbb`), which start with the weights of a plain network, if given;
                      insertions=[{"stage": 3, "block": NAME, ...}, ...] puts blocks into the backbone, see `insert_block`

    Raises KeyError for an unknown name and TypeError for an unknown argument, each naming what was probably meant.
    """
    base, _, tag = name.partition(".") if not name.startswith("timm:") else (name, "", "")
    published = _published_model(name) if tag else None
    found = published or entry(base)
    for given in ("pretrained", "encoder_weights"):
        if given in arguments:
            right = "backbone_weights" if found.takes("backbone") else "weights"
            also = " or 'timm:NAME'" if found.takes("backbone") else ""
            raise TypeError(
                f"{name} has no argument {given!r}: here it is called {right!r} (a catalogue name, a path, a hub address{also})"
            )
    check_arguments(found.build, name, {**found.arguments, **arguments})
    if tag and weights:
        raise ValueError(f"{name!r} names weights and weights={weights!r} does too; give one of them")
    if weights and backbone_weights:
        raise ValueError(
            "weights and backbone_weights are both given; the first hold a backbone already, give one of them"
        )
    dbb = arguments.pop("dbb", False)
    if tag or weights:
        from segmentarium.weights import load_into

        # what is published under a name is what its tensors are, and the name only says it
        model = load_into(weights or name, None if published else found, arguments, accept_licence=accept_licence)
    else:
        model = found.model(**arguments)
        remember(model, base, arguments)
    if backbone_weights:
        from segmentarium.weights import load_part

        if backbone_weights == "imagenet":
            from segmentarium.weights.published import imagenet_trunk

            backbone_weights = imagenet_trunk(str({**found.completed({}), **arguments}.get("backbone", base)))
        load_part(model, "backbone", backbone_weights, accept_licence=accept_licence)
    return model if model.given_arguments.get("dbb") else _with_blocks(model, dbb)


def _published_model(name: str) -> Entry | None:
    """What the key tables of a published checkpoint make of it; None: no such is published."""
    from segmentarium.weights.layouts import get_layout
    from segmentarium.weights.published import published

    row = published().get(name)
    if row is None:
        return None
    if not row.layouts:
        raise KeyError(f"{name} is published, and no key table here reads files of {row.layout} for it")
    return entry(row.model if row.model in _ENTRIES or row.model in known() else get_layout(row.layouts[0]).model)


_BLOCKS: dict[str, Callable[..., nn.Module]] = {}


def register_block(name: str, build: Callable[..., nn.Module]) -> None:
    """Names a block that papers put inside trunks: `build(channels, **arguments)` keeps the shape of (B, channels, H, W).

    A paper's block has the name of its paper's model, in whose file it is registered: so it is found without being imported.
    """
    if name in _BLOCKS:
        raise ValueError(f"block {name!r} is registered twice")
    _BLOCKS[name] = build


def insert_block(
    target: Model | Backbone,
    stage: int,
    block: str | Callable[..., nn.Module],
    *,
    at: At = "last",
    after: str = "",
    **arguments: Any,
) -> list[str]:
    """Puts a block behind blocks of a backbone's stage, in place -> the paths of the modules that it stands behind.

        insert_block(model, 3, "gcnet", at="every", after="conv3", ratio=0.25)
        insert_block(backbone, 2, lambda channels: MyBlock(channels), at=(-2,))

    target     a backbone, or a model that has one.  Its keys stay; the new ones begin with "inserted."
    stage      index of the feature, as in `out_indices`.  Of a network of branches: all blocks of that resolution
    block      a registered name, or what makes a module of a number of channels: (B, C, H, W) -> the same shape
    at         behind the "last" block of the stage, behind "every" one, or behind these, counted from 0, or from the end: -1
    after      a submodule of each block, such as "conv3": the new block stands behind it, before the shortcut joins
    arguments  of the block's own, beside the channels

    A file of a model rebuilds blocks that were given by name.  Raises ValueError for a place that is not there, KeyError for
    an unknown name.
    """
    from segmentarium.contracts import Backbone
    from segmentarium.contracts.insertion import places, put_behind

    backbone = target if isinstance(target, Backbone) else getattr(target, "backbone", None)
    if not isinstance(backbone, Backbone):
        raise ValueError(f"{type(target).__name__} has no backbone of ours or timm's that a block could be put into")
    build = _block(block) if isinstance(block, str) else block
    found = places(backbone, stage, at, after)
    for place in found:
        put_behind(backbone, place, build(place.channels, **arguments))
    if target is not backbone:
        told = {"stage": stage, "block": block, "at": at, "after": after, **arguments}
        given = target.given_arguments  # type: ignore[union-attr]
        target.given_arguments = {**given, "insertions": [*given.get("insertions", ()), told]}  # type: ignore[union-attr]
    return [place.name for place in found]


def _block(name: str) -> Callable[..., nn.Module]:
    if name not in _BLOCKS and name in known():
        entry(name)  # imports the paper's file, which registers it
    if name not in _BLOCKS:
        raise KeyError(f"no block is called {name!r}{did_you_mean(name, sorted(_BLOCKS))}")
    return _BLOCKS[name]


def list_models(pattern: str = "*", *, family: str | None = None, kind: str | None = None) -> list[str]:
    """The registered names that fit a shell pattern ("segformer*"), of one family ("realtime") or kind
    ("segmenter", "classifier"), in alphabetical order."""
    return sorted(
        name
        for name, facts in known().items()
        if fnmatch.fnmatch(name, pattern)
        and family in (None, facts["module"].partition(".")[0])
        and kind in (None, facts["kind"])
    )


def model_card(name: str) -> dict[str, Any]:
    """The card of `name` as plain data: paper, published parameters (millions), FLOPs (1e9 multiply-adds) and scores.

    "counted" has parameters and FLOPs of the model here, without what only training uses; None for names registered elsewhere.
    """
    found = entry(name)
    counted = known().get(name)
    return {
        "name": name,
        "kind": found.kind,
        "family": found.family,
        "arguments": dict(found.arguments),
        **asdict(found.card),
        "counted": counted and {key: counted[key] for key in ("parameters", "flops", "flops_size")},
    }
