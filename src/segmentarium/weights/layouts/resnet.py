"""ResNet as torchvision and timm store it (they agree), with a deep stem as timm does, and as part of larger networks.

`resnet_rules` and `resnet_name` serve the tables of every system that has a ResNet inside.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from segmentarium.weights.table import Layout, Rule, outputs_of

Stem = Literal["plain", "timm", "mmseg"]


def _stem(theirs: str, ours: str, stem: Stem) -> list[Rule]:
    if stem == "plain":
        pairs = [("conv1", "bn1")]
    elif stem == "timm":
        pairs = [("conv1.0", "conv1.1"), ("conv1.3", "conv1.4"), ("conv1.6", "bn1")]
    else:
        pairs = [("stem.0", "stem.1"), ("stem.3", "stem.4"), ("stem.6", "stem.7")]
    rules = []
    for i, (conv, norm) in enumerate(pairs):
        rules += [Rule(f"{theirs}{conv}.weight", f"{ours}stem.{i}.conv.weight")]
        rules += [Rule(f"{theirs}{norm}.{{*}}", f"{ours}stem.{i}.norm.{{*}}")]
    return rules


def block_rules(theirs: str, ours: str, *, average_shortcut: bool = False) -> list[Rule]:
    """The table of layer1 to layer4, prefixes ending in a dot."""
    shortcut = "shortcut.1" if average_shortcut else "shortcut"
    first = 1 if average_shortcut else 0
    # "layer{}" would take layer0 of implementations that call their stem so
    rules = []
    for layer in (f"layer{i}.{{}}" for i in (1, 2, 3, 4)):
        rules += [
            Rule(f"{theirs}{layer}.conv{{}}.weight", f"{ours}{layer}.conv{{}}.conv.weight"),
            Rule(f"{theirs}{layer}.bn{{}}.{{}}", f"{ours}{layer}.conv{{}}.norm.{{}}"),
            Rule(f"{theirs}{layer}.downsample.{first}.weight", f"{ours}{layer}.{shortcut}.conv.weight"),
            Rule(f"{theirs}{layer}.downsample.{first + 1}.{{}}", f"{ours}{layer}.{shortcut}.norm.{{}}"),
        ]
    return rules


def resnet_rules(
    theirs: str = "", ours: str = "", *, stem: Stem = "plain", average_shortcut: bool = False
) -> list[Rule]:
    """The table of a whole ResNet under a prefix ("backbone."), without its classifier."""
    return _stem(theirs, ours, stem) + block_rules(theirs, ours, average_shortcut=average_shortcut)


def blocks_of(state: Mapping[str, Tensor], prefix: str = "") -> tuple[int, ...]:
    """How many blocks each layer has."""
    return tuple(len({k.split(".")[0] for k in _under(state, f"{prefix}layer{i}.")}) for i in (1, 2, 3, 4))


def resnet_depth(state: Mapping[str, Tensor], prefix: str = "") -> int:
    """18, 34, 50, 101 or 152, read off the keys; KeyError where there is no ResNet."""
    bottleneck = f"{prefix}layer1.0.conv3.weight" in state
    depths: dict[tuple[int, ...], int] = {(2, 2, 2, 2): 18, (3, 4, 6, 3): 34, (3, 4, 23, 3): 101, (3, 8, 36, 3): 152}
    depth = depths[blocks_of(state, prefix)]
    return 50 if depth == 34 and bottleneck else depth


def resnet_name(state: Mapping[str, Tensor], prefix: str = "", *, deep_stem: str | None = None) -> str:
    """Our name of the ResNet under `prefix`.  deep_stem: the key of the third stem convolution, where it would be."""
    name = f"resnet{resnet_depth(state, prefix)}"
    if deep_stem is None or deep_stem not in state:
        return name
    if f"{prefix}layer2.0.downsample.2.weight" in state:
        return name + "_v1d"
    return name + ("_v1s" if state[deep_stem].shape[0] == 128 else "_v1c")


def _under(state: Mapping[str, Tensor], prefix: str) -> list[str]:
    return [key.removeprefix(prefix) for key in state if key.startswith(prefix)]


def _arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        "depth": resnet_depth(state),
        "in_channels": state["conv1.weight"].shape[1],
        "num_classes": outputs_of(state, "fc.weight"),
    }


def _deep_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        "depth": resnet_depth(state),
        "in_channels": state["conv1.0.weight"].shape[1],
        "deep_stem": [state[f"conv1.{i}.weight"].shape[0] for i in (0, 3, 6)],
        "num_classes": outputs_of(state, "fc.weight"),
    }


FC = Rule("fc.{}", "classifier.{}")
TIMM = "https://github.com/huggingface/pytorch-image-models"
LAYOUTS = (
    Layout("resnet/torchvision", "resnet50", (*resnet_rules(), FC), _arguments, "https://github.com/pytorch/vision"),
    Layout("resnet/timm_v1c", "resnet50_v1c", (*resnet_rules(stem="timm"), FC), _deep_arguments, TIMM),
    Layout(
        "resnet/timm_v1d",
        "resnet50_v1d",
        (*resnet_rules(stem="timm", average_shortcut=True), FC),
        _deep_arguments,
        TIMM,
    ),
)
