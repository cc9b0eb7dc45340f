"""Context Cluster as its authors store it: classifiers, and the trunks of their dense networks, which have other norms."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from segmentarium.weights.layouts.parts import rest
from segmentarium.weights.table import Golden, Layout, Rule, outputs_of

STAGES = range(4)


def coc_rules(theirs: str = "", ours: str = "") -> list[Rule]:
    """The table of the trunk under a prefix ("backbone."), without norms of features and classifier."""
    reducer = f"{ours}points"
    places = (f"{reducer}.colour.weight", f"{reducer}.place.weight")
    rules = [
        Rule(f"{theirs}patch_embed.proj.weight", places, dim=1),
        Rule(f"{theirs}patch_embed.proj.bias", f"{reducer}.colour.bias"),
    ]
    for i in STAGES:
        if i:
            rules += [rest(f"{theirs}network.{2 * i - 1}.proj", f"{ours}reducers.{i - 1}")]
        their_block, block = f"{theirs}network.{2 * i}.{{}}", f"{ours}stages.{i}.{{}}"
        mixer, cluster = f"{their_block}.token_mixer", f"{block}.cluster"
        rules += [
            Rule(f"{their_block}.layer_scale_{{}}", f"{block}.scale{{}}"),
            rest(f"{their_block}.norm1", f"{block}.norm1"),
            rest(f"{their_block}.norm2", f"{block}.norm2"),
            rest(f"{their_block}.mlp", f"{block}.mlp"),
            Rule(f"{mixer}.sim_{{}}", f"{cluster}.{{}}"),
        ]
        # 1×1 convolutions there
        rules += [
            Rule((f"{mixer}.f.{{}}", f"{mixer}.v.{{}}"), f"{cluster}.point.{{}}", theirs_ndim=4),
            Rule(f"{mixer}.proj.{{}}", f"{cluster}.proj.{{}}", theirs_ndim=4),
        ]
    return rules


# of the published networks; no shape tells regions from none, and a head's width only with their number
HEADS = {96: (4, 24), 128: (4, 32), 192: (6, 32)}  # channels of all heads in the first stage -> heads, channels of each


def coc_arguments(state: Mapping[str, Tensor], prefix: str = "") -> dict[str, Any]:
    """Channels, blocks and heads, read off a trunk's shapes; its regions and centres are in none."""
    blocks = [
        len({k.split(".")[2 + prefix.count(".")] for k in state if k.startswith(f"{prefix}network.{2 * i}.")})
        for i in STAGES
    ]
    heads, width = HEADS[state[f"{prefix}network.0.0.token_mixer.f.weight"].shape[0]]
    return {
        "embed_dims": tuple(state[f"{prefix}network.{2 * i}.0.layer_scale_1"].shape[0] for i in STAGES),
        "depths": tuple(blocks),
        "heads": (heads, heads, 2 * heads, 2 * heads),
        "head_width": width,
    }


def _arguments(state: Mapping[str, Tensor], feature_norms: bool) -> dict[str, Any]:
    return {
        **coc_arguments(state),
        "in_channels": state["patch_embed.proj.weight"].shape[1] - 2,
        "num_classes": outputs_of(state, "head.weight"),
        **({"feature_norms": True} if feature_norms else {}),
    }


SOURCE = "https://github.com/ma-xu/Context-Cluster"
PLAIN = {"proposals": (4, 4, 2, 2), "folds": (1, 1, 1, 1)}
LAYOUTS = (
    Layout(
        "coc/authors",
        "coc_tiny",
        (*coc_rules(), rest("norm", "norm"), rest("head", "classifier")),
        partial(_arguments, feature_norms=False),
        SOURCE,
        goldens={
            "backbone/coc-tiny": Golden({"out": "classify"}),
            "backbone/coc-tiny-plain": Golden({"out": "classify"}, arguments=PLAIN),
        },
    ),
    Layout(
        "coc/authors_dense",
        "coc_tiny",
        (*coc_rules(), *(rest(f"norm{2 * i}", f"feature_norms.{i}") for i in STAGES)),
        partial(_arguments, feature_norms=True),
        SOURCE,
        goldens={"backbone/coc-small-feat2": Golden({f"out/{i}": f"feature {i}" for i in STAGES})},
    ),
)
