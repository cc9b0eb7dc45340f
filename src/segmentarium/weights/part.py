"""Weights of a part: a pretrained backbone under a new decoder, the first stage of a network that is trained in two."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from segmentarium.contracts import Backbone, Model
from segmentarium.meta import on_meta
from segmentarium.preprocessing import Preprocessing
from segmentarium.weights.source import Stored, open_weights
from segmentarium.weights.table import LoadError, LoadReport, carriers, fit, new_heads, to_ours

log = logging.getLogger("segmentarium")
TIMM = "timm:"


def load_part(
    model: Any,
    part: str,
    source: str | Path | Mapping[str, Tensor],
    *,
    layout: str | None = None,
    strict: bool = True,
    accept_licence: bool = False,
) -> LoadReport:
    """Fills one part of a model and nothing else; returns what fitted, by the model's keys.

    part     its name in the model, with dots ("backbone", "encoder"); "": all of it, for a backbone that stands alone
    source   a catalogue name, a file, a folder or "hf:OWNER/NAME": a whole model that has this part, or a backbone; another
             project's file or state dict, recognised by its keys or read through the key table `layout`; "timm:NAME" for
             the weights that timm publishes
    strict   False takes what fits and leaves the rest in the report
    accept_licence   consent to the licence of published weights that is not free or not stated

    Every tensor of the part must be filled, but for those that no classifier has (`Backbone.not_pretrained`).  What a
    backbone's file has beyond it, a classifier and stages behind the last feature that the part gives, is left out and
    reported as dropped, and so is what a pretrainer's has for pretraining alone; first convolutions are adapted to the model's
    input channels, tables of positions to its grid.  Where the weights say how their images were normalised, the model's
    preprocessing follows, and the log says so.

    Raises ValueError for a part or weights that are not there, LoadError for weights that do not fit.
    """
    target = _part(model, part)
    if isinstance(source, str) and source.startswith(TIMM):
        taken = _of_timm(target, source)
    else:
        taken = _of_stored(target, part, open_weights(source, layout, accept_licence=accept_licence))
    return _fill(model, part, taken, strict)


def fill_part(model: Any, part: str, stored: Stored) -> LoadReport:
    """`load_part` from weights that were read already."""
    return _fill(model, part, _of_stored(_part(model, part), part, stored), strict=True)


@dataclass(frozen=True)
class _Taken:
    """Tensors for a part, by the part's own keys.

    enough   of a backbone without a classifier: the keys that fill it; None: all of the part's must be filled
    """

    label: str
    tensors: Mapping[str, Tensor]
    in_channels: int
    preprocessing: Preprocessing | None = None
    dropped: list[str] = field(default_factory=list)
    enough: set[str] | None = None


def _part(model: nn.Module, part: str) -> nn.Module:
    try:
        return model.get_submodule(part)
    except AttributeError:
        parts = ", ".join(name for name, child in model.named_children() if child.state_dict())
        raise ValueError(f"{type(model).__name__} has no part {part!r}; its parts: {parts}") from None


def _of_stored(target: nn.Module, part: str, stored: Stored) -> _Taken:
    ours, dropped, enough = dict(stored.state), [], None
    if stored.layout is not None:
        shapes = {key: tuple(tensor.shape) for key, tensor in stored.shapes().items()}
        ours, unexpected, dropped = to_ours(ours, stored.layout.rules, shapes)
        if unexpected:
            report = LoadReport(loaded=list(ours), unexpected=unexpected, dropped=dropped)
            raise LoadError(f"{stored.label} has more than the layout {stored.layout.name} knows", report)
    if stored.entry.kind == "classifier":
        needed = _needed(stored, target)
        used = needed | target.state_dict().keys()
        enough = needed if stored.headless else None
        tensors = {key: tensor for key, tensor in ours.items() if key in used}
    else:
        there = part or "backbone"  # for a backbone that stands alone
        under = {key: key.removeprefix(f"{there}.") for key in ours if key.startswith(f"{there}.")}
        if not under:
            raise ValueError(f"{stored.label} holds weights of {stored.entry.name!r}, which has no part {there!r}")
        tensors = {name: ours[key] for key, name in under.items()}
        used = set(under)
        if stored.entry.kind == "pretrainer" and isinstance(target, Backbone):
            tensors = target.receive(tensors)
            # the classifier of a backbone that has one is new, and all else must be filled
            enough = {key for key in target.state_dict() if key.partition(".")[0] != "classifier"}
    said = stored.header.get("preprocessing")
    return _Taken(
        stored.label,
        tensors,
        stored.in_channels,
        Preprocessing.from_dict(said) if said else None,
        [*dropped, *(key for key in ours if key not in used)],
        enough,
    )


def _needed(stored: Stored, target: nn.Module) -> set[str]:
    """The keys of the stored backbone without what stands before its classifier, up to the last feature that the part gives."""
    takes = inspect.signature(stored.entry.build).parameters
    bare = {"num_classes": None, "final_conv": False}
    if isinstance(target, Backbone):
        bare["out_indices"] = target.out_indices
    with on_meta():
        own = {key: value for key, value in bare.items() if key in takes}
        made = stored.entry.make(**stored.all_arguments | own)
    return set(made.state_dict())


def _of_timm(target: Any, source: str) -> _Taken:
    """timm's published weights: under the same timm model as they are, under a backbone of ours through a key table."""
    import timm

    from segmentarium.backbones.timm import TimmBackbone

    name = source.removeprefix(TIMM)
    config = timm.get_pretrained_cfg(name)
    preprocessing = None if config is None else Preprocessing(tuple(config.mean), tuple(config.std))
    state = timm.create_model(name, pretrained=True).state_dict()
    if not isinstance(target, TimmBackbone):
        taken = _of_stored(target, "", open_weights(state))
        return replace(taken, label=source, preprocessing=preprocessing)
    if (own := target.body.pretrained_cfg["architecture"]) != name.split(".")[0]:
        raise ValueError(f"the backbone is timm's {own!r}; {source!r} are weights of another model")
    own_keys = target.body.state_dict().keys()
    tensors = {f"body.{key}": tensor for key, tensor in state.items() if key in own_keys}
    return _Taken(source, tensors, 3, preprocessing, [key for key in state if key not in own_keys])


def _fill(model: Any, part: str, taken: _Taken, strict: bool) -> LoadReport:
    target = _part(model, part)
    prefix = f"{part}." if part else ""
    wanted = {prefix + key: tensor for key, tensor in target.state_dict().items()}
    given = {prefix + key: tensor for key, tensor in taken.tensors.items()}
    fitting, report = fit(
        wanted, given, channels=(taken.in_channels, model.in_channels), carried=carriers(target, part)
    )
    report.dropped += taken.dropped
    # a classifier of other classes, or of none, keeps its own head
    classifies = isinstance(target, Backbone) and target.num_classes is not None
    heads = new_heads(model, report) if classifies else set()
    missing = [key.removeprefix(prefix) for key in report.missing]
    if isinstance(target, Backbone):  # blocks put in by insert_block start new under a pretrained trunk, and some norms
        new = target.not_pretrained()
        missing = [key for key in missing if key not in new and not key.startswith("inserted.")]
    if classifies and taken.enough is not None:
        missing = [key for key in missing if key in taken.enough]
    lacking = missing or report.unexpected or any(key not in heads for key, _, _ in report.mismatched)
    if strict and (lacking or not fitting):
        raise LoadError(f"{taken.label} does not fit the {part or 'whole'} of {_name(model)!r}", report)
    model.load_state_dict(fitting, strict=False)
    if taken.preprocessing is not None and _sees_images(target, model.in_channels):
        said = taken.preprocessing.for_channels(model.in_channels)
        report.preprocessing = replace(model.preprocessing, mean=said.mean, std=said.std)
        if report.preprocessing != model.preprocessing:
            log.warning("%s: images are normalised as for %s: mean %s, std %s", part, taken.label, said.mean, said.std)
        model.preprocessing = report.preprocessing
    return report


def _name(model: nn.Module) -> str:
    return (isinstance(model, Model) and model.registered_name) or type(model).__name__


def _sees_images(target: nn.Module, in_channels: int) -> bool:
    """Whether the first convolution of a part takes the model's input."""
    first = next((tensor for tensor in target.state_dict().values() if tensor.ndim == 4), None)
    return first is not None and first.shape[1] == in_channels
