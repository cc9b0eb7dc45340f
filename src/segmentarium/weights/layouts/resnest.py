"""ResNeSt as its authors and timm store it (they agree), and as mmsegmentation does, alone and within larger networks."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from segmentarium.backbones.resnest import DEPTHS
from segmentarium.weights.layouts.resnet import FC, Stem, blocks_of, resnet_rules
from segmentarium.weights.table import Layout, Rule, outputs_of

FIRST = {"timm": "conv1.0.weight", "mmseg": "stem.0.weight"}  # convolution of the image
LAST = {"timm": "conv1.6.weight", "mmseg": "stem.6.weight"}  # of the stem


def resnest_rules(theirs: str = "", ours: str = "", *, stem: Stem = "timm") -> list[Rule]:
    """The table of a whole ResNeSt under a prefix ("backbone."), without its classifier."""
    rules = resnet_rules(theirs, ours, stem=stem, average_shortcut=True)
    for layer in (f"layer{i}.{{}}.conv2" for i in (1, 2, 3, 4)):
        rules += [
            Rule(f"{theirs}{layer}.conv.weight", f"{ours}{layer}.conv.conv.weight"),
            Rule(f"{theirs}{layer}.bn0.{{}}", f"{ours}{layer}.conv.norm.{{}}"),
            Rule(f"{theirs}{layer}.fc1.{{}}", f"{ours}{layer}.reduce.conv.{{}}"),
            Rule(f"{theirs}{layer}.bn1.{{}}", f"{ours}{layer}.reduce.norm.{{}}"),
            Rule(f"{theirs}{layer}.fc2.{{}}", f"{ours}{layer}.expand.{{}}"),
        ]
    return rules


def resnest_arguments(state: Mapping[str, Tensor], prefix: str = "", *, stem: Stem = "timm") -> dict[str, Any]:
    """What the shapes of a ResNeSt under a prefix say.  Where its blocks pool they do not: all that have weights pool before
    the convolution but the plain ones, of radix 2 and one group ("resnest50_fast_2s1x64d" has the same shapes as those)."""
    blocks = blocks_of(state, prefix)
    inner = state[f"{prefix}layer1.0.conv1.weight"].shape[0]
    outputs, inputs = state[f"{prefix}layer1.0.conv2.conv.weight"].shape[:2]
    radix = outputs // inner
    if outputs % inner or inner % (inputs * radix):
        raise ValueError(f"a convolution of {inner} channels to {outputs}, {inputs} to a group, has no splits")
    cardinality = inner // (inputs * radix)
    last, first = state[prefix + LAST[stem]], state[prefix + FIRST[stem]]
    return {
        "depth": {known: depth for depth, known in DEPTHS.items()}[blocks],
        "deep_stem": (first.shape[0], last.shape[1], last.shape[0]),
        "radix": radix,
        "cardinality": cardinality,
        "base_width": inner // cardinality,
        "pool_first": (radix, cardinality) != (2, 1),
        "in_channels": first.shape[1],
    }


def _arguments(stem: Stem, state: Mapping[str, Tensor]) -> dict[str, Any]:
    form = {"form": "mmseg"} if stem == "mmseg" else {}
    return resnest_arguments(state, stem=stem) | {"num_classes": outputs_of(state, "fc.weight")} | form


LAYOUTS = (
    Layout(
        "resnest/authors",
        "resnest50",
        (*resnest_rules(), FC),
        partial(_arguments, "timm"),
        "https://github.com/zhanghang1989/ResNeSt",
        others=("https://github.com/huggingface/pytorch-image-models",),
    ),
    Layout(
        "resnest/mmseg",
        "resnest50",
        (*resnest_rules(stem="mmseg"), FC),
        partial(_arguments, "mmseg"),
        "https://github.com/open-mmlab/mmsegmentation",
    ),
)
