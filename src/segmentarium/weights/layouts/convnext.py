"""ConvNeXt as its authors, timm, torchvision, transformers, mmpretrain and mmsegmentation store it.

The tables of mmpretrain and mmsegmentation were read off their public code; the authors' is that of timm's own converter.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from segmentarium.weights.layouts.parts import rest
from segmentarium.weights.table import Layout, Rule, outputs_of

STAGES = range(4)


def authors_rules(
    theirs: str = "", ours: str = "", names: tuple[str, str, str] = ("dwconv", "pwconv1", "pwconv2")
) -> list[Rule]:
    """The table of the four stages, prefixes ending in a dot.  names: of a block's convolutions and linear layers."""
    stem, between = f"{theirs}downsample_layers.0", f"{theirs}downsample_layers.{{}}"
    their_block, block = f"{theirs}stages.{{}}.{{}}", f"{ours}stages.{{}}.blocks.{{}}"
    return [
        rest(f"{stem}.0", f"{ours}stages.0.embedding.proj"),
        rest(f"{stem}.1", f"{ours}stages.0.embedding.norm"),
        rest(f"{between}.0", f"{ours}stages.{{}}.embedding.norm"),
        rest(f"{between}.1", f"{ours}stages.{{}}.embedding.proj"),
        *_block(their_block, block, ("gamma", names[0], "norm", names[1], names[2])),
    ]


def _block(theirs: str, ours: str, names: tuple[str, str, str, str, str]) -> list[Rule]:
    """names: theirs of the factors, the depthwise convolution, the norm and the two linear layers"""
    gamma, *others = names
    layers = zip(others, ("depthwise", "norm", "mlp.fc1", "mlp.fc2"), strict=True)
    return [
        Rule(f"{theirs}.{gamma}", f"{ours}.scale.gamma"),
        *(rest(f"{theirs}.{layer}", f"{ours}.{mine}") for layer, mine in layers),
    ]


def mmpretrain_rules(theirs: str = "backbone.", ours: str = "") -> list[Rule]:
    """The table of the four stages of mmpretrain's ConvNeXt, which mmsegmentation's and mmdetection's networks have."""
    return authors_rules(theirs, ours, ("depthwise_conv", "pointwise_conv1", "pointwise_conv2"))


def timm_rules(*, convolutions: bool = False) -> list[Rule]:
    """convolutions: of the small ones, where the linear layers are 1×1 convolutions"""
    names = ("gamma", "conv_dw", "norm", "mlp.fc1", "mlp.fc2")
    block = _block("stages.{}.blocks.{}", "stages.{}.blocks.{}", names)
    if convolutions:
        mlp = [f"stages.{{}}.blocks.{{}}.mlp.fc{i}.weight" for i in (1, 2)]
        block = [*(Rule(key, key, theirs_ndim=4) for key in mlp), *block]
    return [
        rest("stem.0", "stages.0.embedding.proj"),
        rest("stem.1", "stages.0.embedding.norm"),
        rest("stages.{}.downsample.0", "stages.{}.embedding.norm"),
        rest("stages.{}.downsample.1", "stages.{}.embedding.proj"),
        *block,
        rest("head.norm", "norm"),
        rest("head.fc", "classifier"),
    ]


def torchvision_rules() -> list[Rule]:
    """A row of eight: patches and blocks by turns."""
    rules = [
        rest("features.0.0", "stages.0.embedding.proj"),
        rest("features.0.1", "stages.0.embedding.norm"),
    ]
    for i in STAGES:
        theirs, ours = f"features.{2 * i + 1}.{{}}", f"stages.{i}.blocks.{{}}"
        rules += [Rule(f"{theirs}.layer_scale", f"{ours}.scale.gamma", theirs_ndim=3)]
        rules += _block(theirs, ours, ("layer_scale", "block.0", "block.2", "block.3", "block.5"))[1:]
        if i > 0:
            rules += [
                rest(f"features.{2 * i}.0", f"stages.{i}.embedding.norm"),
                rest(f"features.{2 * i}.1", f"stages.{i}.embedding.proj"),
            ]
    return [*rules, rest("classifier.0", "norm"), rest("classifier.2", "classifier")]


def transformers_rules(theirs: str = "convnext.", ours: str = "") -> list[Rule]:
    """The table of the four stages."""
    stage = f"{theirs}encoder.stages.{{}}"
    names = ("layer_scale_parameter", "dwconv", "layernorm", "pwconv1", "pwconv2")
    return [
        rest(f"{theirs}embeddings.patch_embeddings", f"{ours}stages.0.embedding.proj"),
        rest(f"{theirs}embeddings.layernorm", f"{ours}stages.0.embedding.norm"),
        rest(f"{stage}.downsampling_layer.0", f"{ours}stages.{{}}.embedding.norm"),
        rest(f"{stage}.downsampling_layer.1", f"{ours}stages.{{}}.embedding.proj"),
        *_block(f"{stage}.layers.{{}}", f"{ours}stages.{{}}.blocks.{{}}", names),
    ]


def convnext_arguments(state: Mapping[str, Tensor], stem: str, factors: str) -> dict[str, Any]:
    """dims, depths and in_channels.

    stem      key of the first convolution
    factors   key of the factors of block {1} in stage {0}
    """
    depths = []
    for stage in STAGES:
        count = 0
        while factors.format(stage, count, 2 * stage + 1) in state:
            count += 1
        depths.append(count)
    dims = [state[factors.format(stage, 0, 2 * stage + 1)].shape[0] for stage in STAGES]
    return {"dims": tuple(dims), "depths": tuple(depths), "in_channels": state[stem].shape[1]}


def _arguments(state: Mapping[str, Tensor], stem: str, factors: str, classifier: str) -> dict[str, Any]:
    return convnext_arguments(state, stem, factors) | {"num_classes": outputs_of(state, classifier)}


def _timm_arguments(state: Mapping[str, Tensor], convolutions: bool) -> dict[str, Any]:
    ndim = state["stages.0.blocks.0.mlp.fc1.weight"].ndim
    if (ndim == 4) != convolutions:
        raise ValueError(f"the first layer of the first block has {ndim} dimensions")
    return convnext_arguments(state, "stem.0.weight", "stages.{}.blocks.{}.gamma") | {
        "num_classes": outputs_of(state, "head.fc.weight")
    }


def _mmseg_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """A backbone with a norm for each of its features."""
    normed = tuple(i for i in STAGES if f"backbone.norm{i}.weight" in state)
    own = convnext_arguments(state, **MMPRETRAIN)
    return own | {"output_norms": True, "out_indices": normed, "num_classes": None}


AUTHORS = {"stem": "downsample_layers.0.0.weight", "factors": "stages.{}.{}.gamma"}
MMPRETRAIN = {name: f"backbone.{key}" for name, key in AUTHORS.items()}
TIMM = "https://github.com/huggingface/pytorch-image-models"
LAYOUTS = (
    Layout(
        "convnext/authors",
        "convnext_tiny",
        (*authors_rules(), rest("norm", "norm"), rest("head", "classifier")),
        partial(_arguments, **AUTHORS, classifier="head.weight"),
        "https://github.com/facebookresearch/ConvNeXt",
    ),
    Layout("convnext/timm", "convnext_tiny", tuple(timm_rules()), partial(_timm_arguments, convolutions=False), TIMM),
    Layout(
        "convnext/timm_small",
        "convnext_atto",
        tuple(timm_rules(convolutions=True)),
        partial(_timm_arguments, convolutions=True),
        TIMM,
    ),
    Layout(
        "convnext/torchvision",
        "convnext_tiny",
        tuple(torchvision_rules()),
        partial(
            _arguments,
            stem="features.0.0.weight",
            factors="features.{2}.{1}.layer_scale",
            classifier="classifier.2.weight",
        ),
        "https://github.com/pytorch/vision",
    ),
    Layout(
        "convnext/transformers",
        "convnext_tiny",
        (*transformers_rules(), rest("convnext.layernorm", "norm"), rest("classifier", "classifier")),
        partial(
            _arguments,
            stem="convnext.embeddings.patch_embeddings.weight",
            factors="convnext.encoder.stages.{}.layers.{}.layer_scale_parameter",
            classifier="classifier.weight",
        ),
        "https://github.com/huggingface/transformers",
    ),
    Layout(
        "convnext/mmpretrain",
        "convnext_tiny",
        (*mmpretrain_rules(), rest("backbone.norm3", "norm"), rest("head.fc", "classifier")),
        partial(_arguments, **MMPRETRAIN, classifier="head.fc.weight"),
        "https://github.com/open-mmlab/mmpretrain",
        others=("https://github.com/open-mmlab/mmsegmentation",),  # its trunks are these files
    ),
    Layout(
        "convnext/mmseg",
        "convnext_tiny",
        (*mmpretrain_rules(), *(rest(f"backbone.norm{i}", f"norms.{i}") for i in STAGES)),
        _mmseg_arguments,
        "https://github.com/open-mmlab/mmsegmentation",
    ),
)
