"""PP-HumanSeg (ConnectNet) as PaddleSeg stores it, running statistics under PyTorch's names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from segmentarium.weights.table import Golden, Layout, Rule


def _unit(theirs: str, ours: str) -> list[Rule]:
    """A convolution with its batch norm."""
    return [
        Rule(f"{theirs}._conv.{{*}}", f"{ours}.conv.{{*}}"),
        Rule(f"{theirs}._batch_norm.{{*}}", f"{ours}.norm.{{*}}"),
    ]


def _separable(theirs: str, ours: str) -> list[Rule]:
    # "piontwise" is how the reference spells it
    return _unit(f"{theirs}.depthwise_conv", f"{ours}.depthwise") + _unit(
        f"{theirs}.piontwise_conv", f"{ours}.pointwise"
    )


def _rules() -> list[Rule]:
    rules = _unit("conv_bn0", "stem") + _unit("conv_bn1", "detail")
    for block in (1, 2):
        theirs, ours = f"block{block}", f"stage{block}"
        rules += _separable(f"{theirs}.0._depthwise_separable_0", f"{ours}.0.shortcut")
        rules += [Rule(f"{theirs}.{{}}._depthwise_separable_0.{{*}}", None)]  # owned by stride-1 units, never used
        rules += _unit(f"{theirs}.{{}}._conv", f"{ours}.{{}}.expand")
        rules += _separable(f"{theirs}.{{}}._depthwise_separable_1", f"{ours}.{{}}.separable")
    for index, ours in enumerate(("reduce", "fuse", "classifier")):
        rules += _separable(f"depthwise_separable{index}", ours)
    return rules


def _arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        "num_classes": state["depthwise_separable2.piontwise_conv._conv.weight"].shape[0],
        "in_channels": state["conv_bn0._conv.weight"].shape[1],
    }


LAYOUTS = (
    Layout(
        "pphumanseg/paddleseg",
        "pphumanseg",
        tuple(_rules()),
        _arguments,
        "https://github.com/PaddlePaddle/PaddleSeg",
        goldens={
            "portrait/pphumanseg-lite": Golden({"out/0": "forward"}, dropped=("block?.[!0]*._depthwise_separable_0.*",))
        },
    ),
)
