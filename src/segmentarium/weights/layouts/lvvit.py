"""LV-ViT as its authors store it: the classifiers; `lvvit_rules` and `lvvit_arguments` serve the network on it, too."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from segmentarium.weights.layouts.parts import rest
from segmentarium.weights.table import Golden, Layout, Rule, outputs_of


def lvvit_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Heads and divisor are in no shape, so that networks other than the paper's are refused.  A table of positions that is no
    square is taken for the rectangle nearest to one, wider than high."""
    from segmentarium.backbones.lvvit import SIZES

    channels = state["cls_token"].shape[-1]
    depth = len({key.split(".")[1] for key in state if key.startswith("blocks.")})
    found = [size for size in SIZES.values() if size[:2] == (channels, depth)]
    if not found:
        raise ValueError(f"{channels} channels with {depth} blocks are no LV-ViT of the paper (T, S, M, L)")
    _, _, heads, stem, divisor, _ = found[0]
    places = state["pos_embed"].shape[1] - 1
    rows = next(rows for rows in range(math.isqrt(places), 0, -1) if places % rows == 0)
    return {
        "embed_dim": channels,
        "depth": depth,
        "heads": heads,
        "stem": stem,
        "divisor": divisor,
        "image_size": 16 * rows if rows**2 == places else (16 * rows, 16 * places // rows),
        "in_channels": state["patch_embed.conv1.weight"].shape[1],
        "num_classes": outputs_of(state, "head.weight"),
    }


def lvvit_rules(theirs: str = "", ours: str = "") -> list[Rule]:
    """Prefixes ending in a dot; without final norm and classifier."""
    rules = [Rule(f"{theirs}cls_token", f"{ours}class_token"), Rule(f"{theirs}pos_embed", f"{ours}positions")]
    for i in (1, 2, 3):
        patches, stem = f"{theirs}patch_embed", f"{ours}stem.{i - 1}"
        rules += [rest(f"{patches}.conv{i}", f"{stem}.conv"), rest(f"{patches}.bn{i}", f"{stem}.norm")]
    return [
        *rules,
        rest(f"{theirs}patch_embed", f"{ours}embedding"),
        rest(f"{theirs}blocks.{{}}.attn", f"{ours}blocks.{{}}.attention"),
        rest(f"{theirs}blocks", f"{ours}blocks"),
    ]


CLASSIFIER = [rest("norm", "norm"), rest("head", "classifier.first"), rest("aux_head", "classifier.patches")]


LAYOUTS = (
    Layout(
        "lvvit/authors",
        "lvvit_s",
        (*lvvit_rules(), *CLASSIFIER),
        lvvit_arguments,
        "https://github.com/zihangJiang/TokenLabeling",
        goldens={"backbone/lvvit-s-eval": Golden({"out/logits": "classify"})},
    ),
)
