"""MobileNet as timm stores it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from segmentarium.weights.layouts.mobilenet_v2 import unit
from segmentarium.weights.table import Layout, Rule, outputs_of


def timm_rules() -> list[Rule]:
    """The table with the classifier; timm has a stage for each stride, as we have."""
    theirs, ours = "blocks.{}.{}", "stages.{}.{}"
    return [
        *unit("conv_stem", "bn1", "stem"),
        *unit(f"{theirs}.conv_dw", f"{theirs}.bn1", f"{ours}.depthwise"),
        *unit(f"{theirs}.conv_pw", f"{theirs}.bn2", f"{ours}.pointwise"),
        Rule("classifier.{}", "classifier.{}"),
    ]


def _arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    stem = state["conv_stem.weight"]
    return {
        "width": stem.shape[0] / 32,
        "in_channels": stem.shape[1],
        "num_classes": outputs_of(state, "classifier.weight"),
    }


LAYOUTS = (
    Layout(
        "mobilenet_v1/timm",
        "mobilenet_v1",
        tuple(timm_rules()),
        _arguments,
        "https://github.com/huggingface/pytorch-image-models",
    ),
)
