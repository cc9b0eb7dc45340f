"""Diverse Branch Blocks, and the networks of them, as their authors store them.

Keys: of the block, the stored references; of the networks, the public code's `convnet_utils.py`, `resnet.py`, `mobilenet.py`.
"""

from __future__ import annotations

from segmentarium.weights.layouts.parts import rest
from segmentarium.weights.table import Rule


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
