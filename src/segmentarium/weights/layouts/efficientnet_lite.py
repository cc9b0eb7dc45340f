"""EfficientNet-Lite as timm stores it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from segmentarium.weights.layouts.mobilenet_v2 import timm_rules
from segmentarium.weights.table import Layout


def _arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The coefficients, by the width of the third stage and the number of blocks of the sixth."""
    blocks = len({key.split(".")[2] for key in state if key.startswith("blocks.5.")})
    widths = {(40, 4): (1.0, 1.0), (40, 5): (1.0, 1.1), (48, 5): (1.1, 1.2), (48, 6): (1.2, 1.4), (56, 8): (1.4, 1.8)}
    width, depth = widths[state["blocks.2.0.conv_pwl.weight"].shape[0], blocks]
    classes = state["classifier.weight"].shape[0]
    return {"width": width, "depth": depth, "in_channels": state["conv_stem.weight"].shape[1], "num_classes": classes}


LAYOUTS = (
    Layout(
        "efficientnet_lite/timm",
        "efficientnet_lite0",
        tuple(timm_rules()),
        _arguments,
        "https://github.com/huggingface/pytorch-image-models",
    ),
)
