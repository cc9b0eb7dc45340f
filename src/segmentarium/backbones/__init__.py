"""Backbones: an image to a feature pyramid.  `create_backbone` builds ours by name, and any timm model as "timm:NAME"."""

from __future__ import annotations

from typing import Any

from torch import nn

from segmentarium.registry import check_arguments, did_you_mean, entry, list_models, remember


def create_backbone(
    name: str | nn.Module, *, in_channels: int = 3, output_stride: int | None = None, **arguments: Any
) -> nn.Module:
    """A backbone with `.channels` and `.strides`.

    name            ours ("resnet50"), timm's ("timm:convnext_tiny"), or a module that is a backbone already
    output_stride   8, 16 or 32: later stages dilated instead of strided, where the family is used that way; None: its own
    arguments       those of the backbone's class, e.g. `pretrained=True` for timm's

    Raises KeyError for an unknown name, ValueError for an output stride that the backbone cannot have.
    """
    if isinstance(name, nn.Module):
        if not hasattr(name, "channels") or not hasattr(name, "strides"):
            raise TypeError(
                f"{type(name).__name__} is no backbone: it needs .channels and .strides, and forward -> list of features"
            )
        return name
    if output_stride is not None:
        arguments["output_stride"] = output_stride
    if name.startswith("timm:"):
        from segmentarium.backbones.timm import TimmBackbone

        backbone = TimmBackbone(name=name.removeprefix("timm:"), in_channels=in_channels, **arguments)
        remember(backbone, name, arguments)
        return backbone
    if name not in list_models(kind="backbone"):
        known = list_models(kind="backbone")
        raise KeyError(f"no backbone is called {name!r}{did_you_mean(name, known)} (any timm model: 'timm:NAME')")
    found = entry(name)
    merged = {**found.arguments, **arguments, "in_channels": in_channels}
    check_arguments(found.build, name, merged)
    return found.build(**merged)
