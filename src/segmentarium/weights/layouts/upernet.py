"""UPerNet as mmsegmentation, the authors of Swin, ConvNeXt, BEiT and LV-ViT, transformers and segmentation-models-pytorch
(smp) store it.

The authors' code is mmsegmentation's of an earlier version: its heads have the same keys.  Their backbones' keys are those of
their classifiers, with a norm for each feature; BEiT's and LV-ViT's have their necks inside.  ResNet's and MAE's tables were
compared with mmsegmentation's own networks of random weights, once; the others of mmsegmentation rest on stored networks, those
of transformers and smp on the packages, LV-ViT's on its code.

transformers counts the blocks that BEiT's features come from two too few, so that its outputs of the authors' weights are not the
authors'; ours are.  smp's norms of features have an epsilon of 1e-6 where Swin's, whose weights they hold, have 1e-5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from segmentarium.backbones.plain import quarters
from segmentarium.preprocessing import Preprocessing
from segmentarium.weights.layouts.beit import beit_arguments, mae_rules, openmmlab_rules, unilm_rules
from segmentarium.weights.layouts.beit import transformers_rules as beit_transformers_rules
from segmentarium.weights.layouts.convnext import authors_rules, convnext_arguments, mmpretrain_rules, timm_rules
from segmentarium.weights.layouts.convnext import transformers_rules as convnext_transformers_rules
from segmentarium.weights.layouts.lvvit import lvvit_arguments, lvvit_rules
from segmentarium.weights.layouts.parts import conv_bn, mmseg_fcn_head, neighbours, rest
from segmentarium.weights.layouts.resnet import resnet_name, resnet_rules
from segmentarium.weights.layouts.swin import microsoft_rules, mmseg_rules, swin_arguments
from segmentarium.weights.layouts.swin import transformers_rules as swin_transformers_rules
from segmentarium.weights.layouts.vit import OPENMMLAB_KEYS, vit_arguments
from segmentarium.weights.layouts.vit import mmseg_rules as vit_mmseg_rules
from segmentarium.weights.table import Golden, Layout, Rule

Read = Callable[[Mapping[str, Tensor]], dict[str, Any]]
LEVELS = range(4)


def mmseg_head(theirs: str = "decode_head.", ours: str = "decoder.") -> list[Rule]:
    """Prefixes ending in a dot."""
    return [
        *conv_bn(f"{theirs}psp_modules.{{}}.1", f"{ours}pyramid.branches.{{}}"),
        *conv_bn(f"{theirs}bottleneck", f"{ours}bottleneck"),
        *conv_bn(f"{theirs}lateral_convs.{{}}", f"{ours}laterals.{{}}"),
        *conv_bn(f"{theirs}fpn_convs.{{}}", f"{ours}outputs.{{}}"),
        *conv_bn(f"{theirs}fpn_bottleneck", f"{ours}fuse"),
        rest(f"{theirs}conv_seg", f"{ours}classifier"),
    ]


def pyramid_neck(theirs: str = "neck.upsample_4x", half: str = "neck.upsample_2x.0", ours: str = "neck.") -> list[Rule]:
    return [rest(theirs, f"{ours}to_quarter"), rest(half, f"{ours}to_half")]


def multilevel_neck(theirs: str = "neck.", ours: str = "neck.") -> list[Rule]:
    """Prefixes ending in a dot."""
    return [
        rest(f"{theirs}lateral_convs.{{}}.conv", f"{ours}laterals.{{}}"),
        rest(f"{theirs}convs.{{}}.conv", f"{ours}outputs.{{}}"),
    ]


def _transformers_head(norm: str = "batch_norm") -> list[Rule]:
    """Of files.  norm: what they call it; "bn" under BEiT"""
    rules: list[Rule] = []
    for theirs, ours in (
        ("decode_head.psp_modules.{}.1", "decoder.pyramid.branches.{}"),
        ("decode_head.bottleneck", "decoder.bottleneck"),
        ("decode_head.lateral_convs.{}", "decoder.laterals.{}"),
        ("decode_head.fpn_convs.{}", "decoder.outputs.{}"),
        ("decode_head.fpn_bottleneck", "decoder.fuse"),
        ("auxiliary_head.convs.{}", "auxiliary.aux.convs.{}"),
    ):
        rules += [rest(f"{theirs}.conv", f"{ours}.conv"), rest(f"{theirs}.{norm}", f"{ours}.norm")]
    return [
        *rules,
        rest("decode_head.classifier", "decoder.classifier"),
        rest("auxiliary_head.classifier", "auxiliary.aux.classifier"),
    ]


def _pair(theirs: str, ours: str) -> list[Rule]:
    return [rest(f"{theirs}.0", f"{ours}.conv"), rest(f"{theirs}.1", f"{ours}.norm")]


def _smp_head() -> list[Rule]:
    """Laterals count from the deepest on."""
    rules = _pair("decoder.psp.blocks.{}.1", "decoder.pyramid.branches.{}")
    rules += _pair("decoder.psp.out_conv", "decoder.bottleneck") + _pair("decoder.fusion_block", "decoder.fuse")
    for i in range(3):
        rules += _pair(f"decoder.fpn_lateral_blocks.{i}.conv_norm_relu", f"decoder.laterals.{2 - i}")
        rules += _pair(f"decoder.fpn_conv_blocks.{i}", f"decoder.outputs.{2 - i}")
    return [*rules, rest("segmentation_head.0", "decoder.classifier")]


# what the shapes tell ---------------------------------------------------------------------------------------------------


def _heads(state: Mapping[str, Tensor], classifier: str = "conv_seg") -> dict[str, Any]:
    """Of the decoder and the auxiliary head."""
    fused, auxiliary = state[f"decode_head.{classifier}.weight"], state.get(f"auxiliary_head.{classifier}.weight")
    found: dict[str, Any] = {
        "num_classes": fused.shape[0],
        "decoder_channels": fused.shape[1],
        "auxiliary": auxiliary is not None,
    }
    if auxiliary is not None:
        found["auxiliary_arguments"] = {"decoder_channels": auxiliary.shape[1]}
    return found


def _within(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _arguments(
    state: Mapping[str, Tensor],
    backbone: str,
    read: Read,
    prefix: str = "backbone.",
    classifier: str = "conv_seg",
    **more: Any,
) -> dict[str, Any]:
    """backbone: a variant of the family that `read` gives the arguments of; more: of it, where no key tells them"""
    own = {**read(_within(prefix, state)), **more}
    channels = own.pop("in_channels")
    own.pop("num_classes", None)
    return {**_heads(state, classifier), "backbone": backbone, "in_channels": channels, "backbone_arguments": own}


def _resnet_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        **_heads(state),
        "backbone": resnet_name(state, "backbone.", deep_stem="backbone.stem.6.weight"),
        "in_channels": state["backbone.stem.0.weight"].shape[1],
    }


def _beit_arguments(state: Mapping[str, Tensor], read: Read, **more: Any) -> dict[str, Any]:
    """The blocks that the public networks tap are in no key: they are these of 12 and of 24, and quarters of others."""
    found = _arguments(state, "beit_b", read, **more)
    own = found["backbone_arguments"]
    depth = own["depth"]
    taps = {12: (3, 5, 7, 11), 24: (7, 11, 15, 23)}.get(depth, tuple(quarters(depth)))
    return {**found, "neck": "pyramid", "backbone_arguments": {**own, "out_indices": taps}}


def _mae_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    own = _within("backbone.", state)
    if "layers.0.attn.qkv.bias" not in own:
        raise KeyError("layers.0.attn.qkv.bias")  # these are a BEiT's keys
    read = partial(beit_arguments, blocks="layers.", embedding="patch_embed.projection.weight")
    return _beit_arguments(state, read, absolute=True, key_bias=True)


def _lvvit_neck(theirs: str = "backbone.side_layer", ours: str = "neck.") -> list[Rule]:
    """Convolution, norm and ReLU one after the other."""
    rules: list[Rule] = []
    for i in LEVELS:
        layer = f"{theirs}{i + 1}"
        rules += neighbours(layer, f"{ours}project.{i}", 3 if i < 2 else 0)
        if i < 2:
            rules += [rest(f"{layer}.{place}", f"{ours}enlarge.{i}.{place}") for place in (0, 1)]
    return rules


def _lvvit_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Blocks and divisor are in no key: they are those of its configurations, of which L's divides by 1."""
    found = _arguments(state, "lvvit_s", lvvit_arguments, final_norm=False)
    own = found["backbone_arguments"]
    if own["embed_dim"] == 768:
        own["divisor"] = 1.0
    depth = own["depth"]
    return {
        **found,
        "neck": "projected",
        "backbone_arguments": {**own, "out_indices": tuple(range(depth - 10, depth, 3))},
    }


def _vit_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    normed = "backbone.ln1.weight" in state
    read = partial(vit_arguments, **OPENMMLAB_KEYS)
    found = _arguments(state, "vit_base_patch16_384", read, final_norm=normed, antialias=False)
    found["backbone_arguments"]["out_indices"] = tuple(quarters(found["backbone_arguments"]["depth"]))
    if "auxiliary_arguments" in found:
        found["auxiliary_arguments"]["index"] = -1
    return {**found, "neck": "multilevel" if "neck.convs.0.conv.weight" in state else None}


def _smp_arguments(state: Mapping[str, Tensor], backbone: str, read: Read, **more: Any) -> dict[str, Any]:
    fused = state["segmentation_head.0.weight"]
    own = {**read(_within("encoder.model.", state)), **more}
    channels = own.pop("in_channels")
    own.pop("num_classes", None)
    return {
        "num_classes": fused.shape[0],
        "decoder_channels": fused.shape[1],
        "auxiliary": False,
        "align_corners": True,
        "backbone": backbone,
        "in_channels": channels,
        "backbone_arguments": own,
    }


def _flat(rules: list[Rule]) -> list[Rule]:
    """Under smp's encoder, where timm joins the first names of its features by underscores."""
    found = []
    for rule in rules:
        assert isinstance(rule.theirs, str)
        theirs = rule.theirs
        for name in ("stem", "stages", "layers"):
            theirs = theirs.replace(f"{name}.", f"{name}_", 1)
        ours = f"backbone.{rule.ours}" if isinstance(rule.ours, str) else None
        found.append(replace(rule, theirs=f"encoder.model.{theirs}", ours=ours))
    return found


def imagenet(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Their images are normalised as for ImageNet's other networks, which a BEiT's are not."""
    return {"preprocessing": Preprocessing().as_dict()}


def _norms(theirs: str) -> list[Rule]:
    """Of the features.  theirs: {} for the number"""
    return [rest(theirs.format(i), f"backbone.norms.{i}") for i in LEVELS]


SWIN, CONVNEXT, BEIT = "upernet_swin_tiny", "upernet_convnext_tiny", "upernet_beit_base"
OUTPUTS = {"out/low": "logits", "out/aux": "aux"}
HEADS = [*mmseg_head(), *mmseg_fcn_head("auxiliary_head.", "auxiliary.aux.")]
MMSEG = "https://github.com/open-mmlab/mmsegmentation"
TRANSFORMERS = "https://github.com/huggingface/transformers"
SMP = "https://github.com/qubvel-org/segmentation_models.pytorch"
NORMED = {"output_norms": True, "out_indices": tuple(LEVELS)}
AUTHORS_CONVNEXT = {"stem": "downsample_layers.0.0.weight", "factors": "stages.{}.{}.gamma"}


def _layout(
    name: str, model: str, rules: list[Rule], arguments: Read, source: str, golden: str | None = None, **more: Any
) -> Layout:
    goldens = {golden: Golden(OUTPUTS)} if golden else {}
    return Layout(f"upernet/{name}", model, tuple(rules), arguments, source, goldens=goldens, **more)


LAYOUTS = (
    _layout(
        "mmseg_resnet",
        "upernet_resnet50",
        [*resnet_rules("backbone.", "backbone.", stem="mmseg"), *HEADS],
        _resnet_arguments,
        MMSEG,
    ),
    _layout(
        "mmseg_swin",
        SWIN,
        [*mmseg_rules("backbone.", "backbone."), *HEADS],
        partial(
            _arguments,
            backbone="swin_t",
            read=partial(
                swin_arguments, stage="stages.{}.blocks", attention="attn.w_msa", embedding="patch_embed.projection"
            ),
            shift_all=True,
        ),
        MMSEG,
        "transformer/upernet-swin-t-mmseg",
    ),
    _layout(
        "microsoft_swin",
        SWIN,
        [*microsoft_rules("backbone.", "backbone.", dense=True), *HEADS],
        partial(_arguments, backbone="swin_t", read=swin_arguments, shift_all=True),
        "https://github.com/SwinTransformer/Swin-Transformer-Semantic-Segmentation",
    ),
    _layout(
        "transformers_swin",
        SWIN,
        [
            *swin_transformers_rules("backbone.", "backbone.", dense=True),
            Rule("backbone.swin.layernorm.{}", None),  # of the deepest feature's classifier
            *_transformers_head(),
        ],
        partial(
            _arguments,
            backbone="swin_t",
            read=partial(
                swin_arguments,
                stage="encoder.layers.{}.blocks",
                attention="attention.self",
                embedding="embeddings.patch_embeddings.projection",
            ),
            classifier="classifier",
            out_indices=tuple(LEVELS),
        ),
        TRANSFORMERS,
    ),
    _layout(
        "smp_swin",
        SWIN,
        [*_flat(microsoft_rules(merges_first=True)[:-1]), *_norms("decoder.feature_norms.{}"), *_smp_head()],
        partial(
            _smp_arguments,
            backbone="swin_t",
            read=partial(swin_arguments, stage="layers_{}.blocks"),
            shift_all=False,  # as timm
            out_indices=tuple(LEVELS),
        ),
        SMP,
    ),
    _layout(
        "mmseg_convnext",
        CONVNEXT,
        [*mmpretrain_rules("backbone.", "backbone."), *_norms("backbone.norm{}"), *HEADS],
        partial(_arguments, backbone="convnext_tiny", read=partial(convnext_arguments, **AUTHORS_CONVNEXT), **NORMED),
        MMSEG,
        "transformer/upernet-convnext-t-mmseg",
    ),
    _layout(
        "facebook_convnext",
        CONVNEXT,
        [*authors_rules("backbone.", "backbone."), *_norms("backbone.norm{}"), *HEADS],
        partial(_arguments, backbone="convnext_tiny", read=partial(convnext_arguments, **AUTHORS_CONVNEXT), **NORMED),
        "https://github.com/facebookresearch/ConvNeXt",
    ),
    _layout(
        "transformers_convnext",
        CONVNEXT,
        [
            *convnext_transformers_rules("backbone.", "backbone."),
            *(rest(f"backbone.hidden_states_norms.stage{i + 1}", f"backbone.norms.{i}") for i in LEVELS),
            *_transformers_head(),
        ],
        partial(
            _arguments,
            backbone="convnext_tiny",
            read=partial(
                convnext_arguments,
                stem="embeddings.patch_embeddings.weight",
                factors="encoder.stages.{}.layers.{}.layer_scale_parameter",
            ),
            classifier="classifier",
            **NORMED,
        ),
        TRANSFORMERS,
    ),
    _layout(
        "smp_convnext",
        CONVNEXT,
        [*_flat(timm_rules()), *_norms("decoder.feature_norms.{}"), *_smp_head()],
        partial(
            _smp_arguments,
            backbone="convnext_tiny",
            read=partial(convnext_arguments, stem="stem_0.weight", factors="stages_{}.blocks.{}.gamma"),
            **NORMED,
        ),
        SMP,
    ),
    _layout(
        "mmseg_beit",
        BEIT,
        [*openmmlab_rules("backbone.", "backbone."), *pyramid_neck(), *HEADS],
        partial(
            _beit_arguments,
            read=partial(beit_arguments, blocks="layers.", embedding="patch_embed.projection.weight"),
        ),
        MMSEG,
        "transformer/upernet-beit-mmseg",
        facts=imagenet,
    ),
    _layout(
        "mmseg_mae",
        BEIT,
        [*mae_rules("backbone.", "backbone."), *pyramid_neck(), *HEADS],
        _mae_arguments,
        MMSEG,
        facts=imagenet,
    ),
    _layout(
        "unilm_beit",
        BEIT,
        [*pyramid_neck("backbone.fpn1", "backbone.fpn2.0"), *unilm_rules("backbone.", "backbone."), *HEADS],
        partial(_beit_arguments, read=beit_arguments),
        "https://github.com/microsoft/unilm",
    ),
    _layout(
        "transformers_beit",
        BEIT,
        [
            *pyramid_neck("fpn1", "fpn2.0"),
            *beit_transformers_rules("beit.", "backbone."),
            *_transformers_head("bn"),
        ],
        partial(
            _beit_arguments,
            read=partial(
                beit_arguments,
                blocks="encoder.layer.",
                embedding="embeddings.patch_embeddings.projection.weight",
            ),
            prefix="beit.",
            classifier="classifier",
        ),
        TRANSFORMERS,
    ),
    _layout(
        "authors_lvvit",
        "upernet_vit_base",
        [*_lvvit_neck(), *lvvit_rules("backbone.", "backbone."), *HEADS],
        _lvvit_arguments,
        "https://github.com/zihangJiang/TokenLabeling",
    ),
    _layout(
        "mmseg_vit",
        "upernet_vit_base",
        [*vit_mmseg_rules("backbone.", "backbone."), *multilevel_neck(), *HEADS],
        _vit_arguments,
        MMSEG,
        "transformer/upernet-vit-mln-mmseg",
    ),
)
