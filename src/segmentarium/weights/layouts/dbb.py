"""Diverse Branch Blocks, and the networks of them, as their authors store them: as trained, and converted.

The keys of a block rest on stored references, those of the networks on the public code (`convnet_utils.py`, `resnet.py`,
`mobilenet.py`): `conv`, `bn` where a convolution is none of the block's, `dbb_reparam` for a converted block.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from segmentarium.weights.layouts.parts import conv_bn, rest
from segmentarium.weights.table import Layout, Rule, outputs_of


def block_rules(theirs: str, ours: str) -> list[Rule]:
    """A block as trained; names without a dot at their ends."""
    point, average, chain = f"{theirs}.dbb_1x1", f"{theirs}.dbb_avg", f"{theirs}.dbb_1x1_kxk"
    return [
        rest(f"{theirs}.dbb_origin.conv", f"{ours}.origin"),
        rest(f"{theirs}.dbb_origin.bn", f"{ours}.origin_norm"),
        rest(f"{point}.conv", f"{ours}.point"),
        rest(f"{point}.bn", f"{ours}.point_norm"),
        rest(f"{average}.conv", f"{ours}.average_conv"),
        rest(f"{average}.bn.bn", f"{ours}.average_inner"),
        rest(f"{average}.avgbn", f"{ours}.average_norm"),
        rest(f"{chain}.idconv1", f"{ours}.chain_identity"),
        rest(f"{chain}.conv1", f"{ours}.chain_widen"),
        rest(f"{chain}.bn1.bn", f"{ours}.chain_inner"),
        rest(f"{chain}.conv2", f"{ours}.chain_conv"),
        rest(f"{chain}.bn2", f"{ours}.chain_norm"),
    ]


def unit_rules(theirs: str, ours: str, deployed: bool, *, block: bool) -> list[Rule]:
    """A convolution with its norm, which is a block or none."""
    if not deployed:
        return block_rules(theirs, f"{ours}.conv") if block else conv_bn(theirs, ours)
    return [rest(f"{theirs}.dbb_reparam", f"{ours}.conv")] if block else [rest(f"{theirs}.conv", f"{ours}.conv")]


def resnet_rules(deployed: bool, bottleneck: bool) -> list[Rule]:
    """ResNet-18 has two blocks in each of its own, ResNet-50 one between two 1×1 convolutions."""
    rules = unit_rules("stage0.conv1", "stem.0", deployed, block=False)
    for i in (1, 2, 3, 4):
        theirs, ours = f"stage{i}.{{}}", f"layer{i}.{{}}"
        rules += unit_rules(f"{theirs}.shortcut", f"{ours}.shortcut", deployed, block=False)
        for number in (1, 2, 3) if bottleneck else (1, 2):
            block = number == 2 or not bottleneck
            rules += unit_rules(f"{theirs}.conv{number}", f"{ours}.conv{number}", deployed, block=block)
    return [*rules, rest("linear", "classifier")]


def mobilenet_rules(deployed: bool) -> list[Rule]:
    """Their 13 blocks stand in one row; ours by stride."""
    rules = unit_rules("conv1", "stem", deployed, block=True)
    places = [(stage, block) for stage, blocks in enumerate((1, 2, 2, 6, 2)) for block in range(blocks)]
    for number, (stage, block) in enumerate(places):
        theirs, ours = f"stem.{number}", f"stages.{stage}.{block}"
        rules += unit_rules(f"{theirs}.depthwise", f"{ours}.depthwise", deployed, block=True)
        rules += unit_rules(f"{theirs}.pointwise", f"{ours}.pointwise", deployed, block=False)
    return [*rules, rest("linear", "classifier")]


def _resnet_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    stem = state["stage0.conv1.conv.weight"]
    depths: dict[tuple[int, ...], int] = {(2, 2, 2, 2): 18, (3, 4, 6, 3): 50}
    blocks = tuple(len({key.split(".")[1] for key in state if key.startswith(f"stage{i}.")}) for i in (1, 2, 3, 4))
    return {
        "depth": depths[blocks],
        "width": stem.shape[0],
        "in_channels": stem.shape[1],
        "deployed": "stage0.conv1.conv.bias" in state,
        "num_classes": outputs_of(state, "linear.weight"),
    }


def _mobilenet_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    deployed = "conv1.dbb_reparam.weight" in state
    stem = state["conv1.dbb_reparam.weight" if deployed else "conv1.dbb_origin.conv.weight"]
    return {
        "width": stem.shape[0] / 32,
        "in_channels": stem.shape[1],
        "deployed": deployed,
        "num_classes": outputs_of(state, "linear.weight"),
    }


SOURCE = "https://github.com/DingXiaoH/DiverseBranchBlock"
LAYOUTS = tuple(
    layout
    for name, deployed in (("authors", False), ("authors_deployed", True))
    for layout in (
        Layout(f"dbb_resnet18/{name}", "dbb_resnet18", tuple(resnet_rules(deployed, False)), _resnet_arguments, SOURCE),
        Layout(f"dbb_resnet50/{name}", "dbb_resnet50", tuple(resnet_rules(deployed, True)), _resnet_arguments, SOURCE),
        Layout(
            f"dbb_mobilenet_v1/{name}",
            "dbb_mobilenet_v1",
            tuple(mobilenet_rules(deployed)),
            _mobilenet_arguments,
            SOURCE,
        ),
    )
)
