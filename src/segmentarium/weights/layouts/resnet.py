"""ResNet as torchvision, timm and segmentation-models-pytorch store it (they agree), with a deep stem as timm does, as
mmpretrain, mmsegmentation and transformers do, and as part of larger networks.

`resnet_rules` and `resnet_name` serve the tables of every system that has a ResNet inside.  mmpretrain's and mmsegmentation's
were compared with mmpretrain's own networks of random weights, once.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

from torch import Tensor

from segmentarium.backbones.resnet import BLOCKS, Bottleneck
from segmentarium.weights.table import Layout, Rule, outputs_of, to_ours

Stem = Literal["plain", "timm", "mmseg", "mmpretrain"]
DEPTHS = {(blocks, block is Bottleneck): depth for depth, (block, blocks) in BLOCKS.items()}


STEMS = {  # convolutions and their norms
    "plain": [("conv1", "bn1")],
    "timm": [("conv1.0", "conv1.1"), ("conv1.3", "conv1.4"), ("conv1.6", "bn1")],
    "mmseg": [("stem.0", "stem.1"), ("stem.3", "stem.4"), ("stem.6", "stem.7")],
    "mmpretrain": [(f"stem.{i}.conv", f"stem.{i}.bn") for i in range(3)],
}


def _stem(theirs: str, ours: str, stem: Stem) -> list[Rule]:
    rules = []
    for i, (conv, norm) in enumerate(STEMS[stem]):
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


def detectron2_conv(theirs: str, ours: str) -> list[Rule]:
    """A convolution that has its norm inside."""
    return [Rule(f"{theirs}.weight", f"{ours}.conv.weight"), Rule(f"{theirs}.norm.{{}}", f"{ours}.norm.{{}}")]


def detectron2_rules(theirs: str = "", ours: str = "") -> list[Rule]:
    """detectron2's, with one convolution or three in the stem; prefixes ending in a dot.  What its networks know of the images'
    mean and deviation lies in their files, too."""
    rules = [Rule(key, None) for key in ("pixel_mean", "pixel_std")]
    rules += [rule for i in (1, 2, 3) for rule in detectron2_conv(f"{theirs}stem.conv{i}", f"{ours}stem.{i - 1}")]
    for stage in (1, 2, 3, 4):
        block, mine = f"{theirs}res{stage + 1}.{{}}", f"{ours}layer{stage}.{{}}"
        for i in (1, 2, 3):
            rules += detectron2_conv(f"{block}.conv{i}", f"{mine}.conv{i}")
        rules += detectron2_conv(f"{block}.shortcut", f"{mine}.shortcut")
    return rules


def detectron2_depth(state: Mapping[str, Tensor], prefix: str = "") -> int:
    """KeyError where there is no ResNet of detectron2's under `prefix`."""
    a, b, c, d = (len({k.split(".")[0] for k in _under(state, f"{prefix}res{i}.")}) for i in (2, 3, 4, 5))
    return DEPTHS[(a, b, c, d), f"{prefix}res2.0.conv3.weight" in state]


def blocks_of(state: Mapping[str, Tensor], prefix: str = "") -> tuple[int, int, int, int]:
    """How many blocks each layer has."""
    a, b, c, d = (len({k.split(".")[0] for k in _under(state, f"{prefix}layer{i}.")}) for i in (1, 2, 3, 4))
    return a, b, c, d


def resnet_depth(state: Mapping[str, Tensor], prefix: str = "") -> int:
    """18 to 152, read off the keys; KeyError where there is no ResNet."""
    return DEPTHS[blocks_of(state, prefix), f"{prefix}layer1.0.conv3.weight" in state]


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


def _transformers() -> list[Rule]:
    def unit(theirs: str, ours: str) -> list[Rule]:
        return [
            Rule(f"{theirs}.convolution.weight", f"{ours}.conv.weight"),
            Rule(f"{theirs}.normalization.{{}}", f"{ours}.norm.{{}}"),
        ]

    rules = unit("resnet.embedder.embedder", "stem.0")
    for stage in range(4):
        block, mine = f"resnet.encoder.stages.{stage}.layers.{{}}", f"layer{stage + 1}.{{}}"
        rules += unit(f"{block}.shortcut", f"{mine}.shortcut")
        for i in range(3):
            rules += unit(f"{block}.layer.{i}", f"{mine}.conv{i + 1}")
    return [*rules, Rule("classifier.1.{}", "classifier.{}")]


def _arguments(state: Mapping[str, Tensor], prefix: str = "", head: str = "fc") -> dict[str, Any]:
    return {
        "depth": resnet_depth(state, prefix),
        "in_channels": state[f"{prefix}conv1.weight"].shape[1],
        "num_classes": outputs_of(state, f"{head}.weight"),
    }


def _deep_arguments(
    state: Mapping[str, Tensor], stem: Stem = "timm", prefix: str = "", head: str = "fc"
) -> dict[str, Any]:
    filters = [state[f"{prefix}{conv}.weight"] for conv, _ in STEMS[stem]]
    return {
        "depth": resnet_depth(state, prefix),
        "in_channels": filters[0].shape[1],
        "deep_stem": tuple(weight.shape[0] for weight in filters),
        "num_classes": outputs_of(state, f"{head}.weight"),
    }


def _transformers_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    tensors, _, _ = to_ours(state, TRANSFORMERS, {})
    bottleneck = "layer1.0.conv3.conv.weight" in tensors
    return {
        "depth": DEPTHS[blocks_of(tensors), bottleneck],
        "in_channels": tensors["stem.0.conv.weight"].shape[1],
        "num_classes": outputs_of(tensors, "classifier.weight"),
    }


FC, HEAD_FC = Rule("fc.{}", "classifier.{}"), Rule("head.fc.{}", "classifier.{}")
TRANSFORMERS = _transformers()
TIMM = "https://github.com/huggingface/pytorch-image-models"
OPENMMLAB = "https://github.com/open-mmlab"
mmpretrain = partial(_deep_arguments, stem="mmpretrain", prefix="backbone.", head="head.fc")
LAYOUTS = (
    Layout(
        "resnet/torchvision",
        "resnet50",
        (*resnet_rules(), FC),
        _arguments,
        "https://github.com/pytorch/vision",
        others=(TIMM, "https://github.com/qubvel-org/segmentation_models.pytorch"),
    ),
    Layout("resnet/timm_v1c", "resnet50_v1c", (*resnet_rules(stem="timm"), FC), _deep_arguments, TIMM),
    Layout(
        "resnet/timm_v1d",
        "resnet50_v1d",
        (*resnet_rules(stem="timm", average_shortcut=True), FC),
        _deep_arguments,
        TIMM,
    ),
    Layout(
        "resnet/transformers",
        "resnet50",
        tuple(TRANSFORMERS),
        _transformers_arguments,
        "https://github.com/huggingface/transformers",
    ),
    Layout(
        "resnet/mmpretrain",
        "resnet50",
        (*resnet_rules("backbone."), HEAD_FC),
        partial(_arguments, prefix="backbone.", head="head.fc"),
        f"{OPENMMLAB}/mmpretrain",
    ),
    Layout(
        "resnet/mmpretrain_v1c",
        "resnet50_v1c",
        (*resnet_rules("backbone.", stem="mmpretrain"), HEAD_FC),
        mmpretrain,
        f"{OPENMMLAB}/mmpretrain",
    ),
    Layout(
        "resnet/mmpretrain_v1d",
        "resnet50_v1d",
        (
            # where nothing is strided, no pooling stands in its row
            Rule("backbone.layer1.0.downsample.0.weight", "layer1.0.shortcut.1.conv.weight"),
            Rule("backbone.layer1.0.downsample.1.{}", "layer1.0.shortcut.1.norm.{}"),
            *resnet_rules("backbone.", stem="mmpretrain", average_shortcut=True),
            HEAD_FC,
        ),
        mmpretrain,
        f"{OPENMMLAB}/mmpretrain",
    ),
    Layout(
        "resnet/mmseg",  # the files that its ResNetV1c starts from
        "resnet50_v1c",
        (*resnet_rules(stem="mmseg"), FC),
        partial(_deep_arguments, stem="mmseg"),
        f"{OPENMMLAB}/mmsegmentation",
    ),
)
