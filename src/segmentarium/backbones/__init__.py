"""Backbones: an image to a feature pyramid.  `create_backbone` builds ours by name, and any timm model as "timm:NAME"."""

from __future__ import annotations

from typing import Any

from torch import nn

from segmentarium.checks import did_you_mean
from segmentarium.contracts import Backbone
from segmentarium.registry import check_arguments, entry, list_models


def create_backbone(
    name: str | nn.Module, *, in_channels: int = 3, output_stride: int | None = None, **arguments: Any
) -> Backbone:
    """A backbone: `backbone(image)` is a list of features, finest first.

    name            ours ("resnet50"), timm's ("timm:convnext_tiny"), or a `Backbone` that stands already
    output_stride   8, 16 or 32: later stages dilated instead of strided, where the family is used that way; None: its own
    arguments       those of the backbone's class, e.g. `out_indices`, or `pretrained=True` for timm's

    Raises KeyError for an unknown name, ValueError for an output stride that the backbone cannot have.
    """
    if isinstance(name, nn.Module):
        if not isinstance(name, Backbone):
            raise TypeError(f"{type(name).__name__} is no backbone: derive it from segmentarium.contracts.Backbone")
        return name
    if not name.startswith("timm:") and not _registered(name):
        names = list_models(kind="classifier")
        raise KeyError(f"no backbone is called {name!r}{did_you_mean(name, names)} (any timm model: 'timm:NAME')")
    found = entry(name)
    merged = {**found.arguments, **arguments, "in_channels": in_channels}
    if output_stride is not None:
        merged["output_stride"] = output_stride
        if not found.takes("output_stride"):
            raise ValueError(f"{name} cannot be dilated, so its output stride cannot be set to {output_stride}")
    check_arguments(found.build, name, merged)
    return found.make(**merged)


def _registered(name: str) -> bool:
    """Whether a backbone is called so; one just written, too, which models.json does not list yet."""
    try:
        return entry(name).kind == "classifier"
    except KeyError:
        return False


def can_have(backbone: str | nn.Module, output_stride: int) -> bool:
    """Whether `create_backbone(backbone, output_stride=output_stride)` gives that stride; False for one that stands already."""
    if isinstance(backbone, nn.Module):
        return False
    if backbone.startswith("timm:"):
        from segmentarium.backbones.timm import can_be_dilated

        return can_be_dilated(backbone.removeprefix("timm:"), output_stride)
    return _registered(backbone) and entry(backbone).takes("output_stride")


def can_take(backbone: str, argument: str) -> bool:
    """Whether `create_backbone(backbone, …)` has that argument; False for a name that is unknown."""
    return _registered(backbone) and entry(backbone).takes(argument)
