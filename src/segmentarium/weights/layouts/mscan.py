"""MSCAN as its authors and mmsegmentation store it.

The authors' keys are those of a stored reference.  mmsegmentation's code has one name less in the feed-forward network; that
its ImageNet files say so too rests on that code alone, so both tables take files with a classifier and without one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from segmentarium.weights.layouts.parts import neighbours, rest
from segmentarium.weights.table import Golden, Layout, Rule, outputs_of


def mscan_rules(theirs: str = "", ours: str = "", *, dwconv: str = "dwconv") -> list[Rule]:
    """The table of the trunk under a prefix ("backbone."); dwconv: where the depthwise convolution stands in `mlp`."""
    stem = f"{theirs}patch_embed1.proj"
    rules = [*neighbours(stem, f"{ours}stages.0.embedding.0"), *neighbours(stem, f"{ours}stages.0.embedding.1", 3)]
    for i in range(4):
        stage, their_block = f"{ours}stages.{i}", f"{theirs}block{i + 1}.{{}}"
        block, unit = f"{stage}.blocks.{{}}", f"{their_block}.attn.spatial_gating_unit"
        if i:
            rules += [
                rest(f"{theirs}patch_embed{i + 1}.proj", f"{stage}.embedding.conv"),
                rest(f"{theirs}patch_embed{i + 1}.norm", f"{stage}.embedding.norm"),
            ]
        rules += [
            rest(f"{theirs}norm{i + 1}", f"{stage}.norm"),
            rest(f"{their_block}.norm1", f"{block}.norm1"),
            rest(f"{their_block}.norm2", f"{block}.norm2"),
            Rule(f"{their_block}.layer_scale_1", f"{block}.scale1"),
            Rule(f"{their_block}.layer_scale_2", f"{block}.scale2"),
            rest(f"{their_block}.attn.proj_1", f"{block}.attention.project_in"),
            rest(f"{their_block}.attn.proj_2", f"{block}.attention.project_out"),
            rest(f"{unit}.conv0", f"{block}.attention.local"),
            rest(f"{unit}.conv3", f"{block}.attention.mix"),
            rest(f"{their_block}.mlp.fc1", f"{block}.ffn.fc1"),
            rest(f"{their_block}.mlp.{dwconv}", f"{block}.ffn.dwconv"),
            rest(f"{their_block}.mlp.fc2", f"{block}.ffn.fc2"),
        ]
        rules += [
            rest(f"{unit}.conv{strip}_{part + 1}", f"{block}.attention.strips.{strip}.{part}")
            for strip in range(3)
            for part in range(2)
        ]
    return rules


def mscan_arguments(state: Mapping[str, Tensor], prefix: str = "") -> dict[str, Any]:
    """Channels and blocks, read off a trunk's shapes; its drop path is in none."""
    numbers = [{key.split(".")[0] for key in _under(state, f"{prefix}block{i}.")} for i in (1, 2, 3, 4)]
    return {
        "embed_dims": tuple(state[f"{prefix}norm{i}.weight"].shape[0] for i in (1, 2, 3, 4)),
        "depths": tuple(len(found) for found in numbers),
    }


def _under(state: Mapping[str, Tensor], prefix: str) -> list[str]:
    return [key.removeprefix(prefix) for key in state if key.startswith(prefix)]


def _arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        **mscan_arguments(state),
        "in_channels": state["patch_embed1.proj.0.weight"].shape[1],
        "num_classes": outputs_of(state, "head.weight"),
    }


HEAD = Rule("head.{}", "classifier.{}")
FEATURES = {f"out/{i}": f"feature {i}" for i in range(4)}
LAYOUTS = (
    Layout(
        "mscan/authors",
        "mscan_t",
        (*mscan_rules(dwconv="dwconv.dwconv"), HEAD),
        _arguments,
        "https://github.com/Visual-Attention-Network/SegNeXt",
        goldens={"backbone/mscan-t": Golden(FEATURES)},
    ),
    Layout(
        "mscan/mmseg",
        "mscan_t",
        (*mscan_rules(), HEAD),
        _arguments,
        "https://github.com/open-mmlab/mmsegmentation",
    ),
)
