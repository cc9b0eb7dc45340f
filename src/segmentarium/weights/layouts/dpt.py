"""DPT as its authors, transformers, mmsegmentation and segmentation_models_pytorch (smp) store it.

mmsegmentation's table was read off its public code.  Without a readout's linear layers no key tells "add" from "ignore": it is
taken for "ignore".  Depth networks, whose units have no batch norm, are others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from segmentarium.weights.layouts.parts import conv_bn, mmseg_fcn_head, neighbours, rest
from segmentarium.weights.layouts.vit import (
    OPENMMLAB_KEYS,
    TIMM_KEYS,
    hybrid_timm_rules,
    mmseg_rules,
    sized,
    timm_rules,
    transformers_keys,
    transformers_rules,
    vit_arguments,
)
from segmentarium.weights.table import Golden, Layout, Rule

LEVELS = range(4)
BILINEAR = {"interpolation": "bilinear", "antialias": False}
BICUBIC = {"interpolation": "bicubic", "antialias": False}


def _head(theirs: str, ours: str) -> list[Rule]:
    """Convolution, norm, ReLU, dropout and classifier in a Sequential."""
    return [*neighbours(theirs, f"{ours}.convs.0"), rest(f"{theirs}.4", f"{ours}.classifier")]


def _unit(conv: str, norm: str, ours: str) -> list[Rule]:
    """A residual unit; `{n}` stands for 1 and 2."""
    rules = []
    for n in (1, 2):
        rules += [Rule(f"{conv.format(n=n)}.weight", f"{ours}.conv{n}.conv.weight")]
        rules += [rest(norm.format(n=n), f"{ours}.conv{n}.norm")]
    return rules


def _authors() -> list[Rule]:
    rules = [
        Rule("pretrained.model.norm.{*}", None),  # the blocks are tapped before it
        Rule("pretrained.model.head.{*}", None),  # ImageNet's
        Rule("scratch.refinenet4.resConfUnit1.{*}", None),  # the deepest fusion has no skip
        *hybrid_timm_rules("pretrained.model.", "backbone."),
    ]
    for i in LEVELS:
        maps, fusion, ours = f"pretrained.act_postprocess{i + 1}", f"scratch.refinenet{i + 1}", f"decoder.fusions.{i}"
        rules += [
            rest(f"{maps}.0.project.0", f"decoder.reassemble.{i}.readout"),
            rest(f"{maps}.3", f"decoder.reassemble.{i}.project"),
            rest(f"{maps}.4", f"decoder.reassemble.{i}.resize"),
            rest(f"scratch.layer{i + 1}_rn", f"decoder.laterals.{i}"),
            rest(f"{fusion}.out_conv", f"{ours}.out"),
            *_unit(f"{fusion}.resConfUnit1.conv{{n}}", f"{fusion}.resConfUnit1.bn{{n}}", f"{ours}.skip_unit"),
            *_unit(f"{fusion}.resConfUnit2.conv{{n}}", f"{fusion}.resConfUnit2.bn{{n}}", f"{ours}.unit"),
        ]
    return [*rules, *_head("scratch.output_conv", "decoder.head"), *_head("auxlayer", "decoder.auxiliary_head")]


def _transformers() -> list[Rule]:
    neck = "neck.reassemble_stage"
    rules = [
        Rule("dpt.layernorm.{*}", None),
        Rule("neck.fusion_stage.layers.0.residual_layer1.{*}", None),
        *transformers_rules("dpt.", "backbone."),
        rest(f"{neck}.readout_projects.{{}}.0", "decoder.reassemble.{}.readout"),
        rest(f"{neck}.layers.{{}}.projection", "decoder.reassemble.{}.project"),
        rest(f"{neck}.layers.{{}}.resize", "decoder.reassemble.{}.resize"),
        rest("neck.convs.{}", "decoder.laterals.{}"),
    ]
    for i in LEVELS:  # theirs count from the deepest
        fusion, ours = f"neck.fusion_stage.layers.{3 - i}", f"decoder.fusions.{i}"
        rules.append(rest(f"{fusion}.projection", f"{ours}.out"))
        for name, unit in (("residual_layer1", "skip_unit"), ("residual_layer2", "unit")):
            theirs = f"{fusion}.{name}"
            rules += _unit(f"{theirs}.convolution{{n}}", f"{theirs}.batch_norm{{n}}", f"{ours}.{unit}")
    return [*rules, *_head("head.head", "decoder.head"), *_head("auxiliary_head.head", "decoder.auxiliary_head")]


def _mmseg() -> list[Rule]:
    head = "decode_head"
    blocks = f"{head}.reassemble_blocks"
    rules = [
        *mmseg_rules("backbone.", "backbone."),
        rest(f"{blocks}.readout_projects.{{}}.0", "decoder.reassemble.{}.readout"),
        rest(f"{blocks}.projects.{{}}.conv", "decoder.reassemble.{}.project"),
        rest(f"{blocks}.resize_layers.{{}}", "decoder.reassemble.{}.resize"),
        rest(f"{head}.convs.{{}}.conv", "decoder.laterals.{}"),
    ]
    for i in LEVELS:
        fusion, ours = f"{head}.fusion_blocks.{3 - i}", f"decoder.fusions.{i}"
        rules.append(rest(f"{fusion}.project.conv", f"{ours}.out"))
        for n, unit in ((1, "skip_unit"), (2, "unit")):
            rules += conv_bn(f"{fusion}.res_conv_unit{n}.conv1", f"{ours}.{unit}.conv1")
            rules += conv_bn(f"{fusion}.res_conv_unit{n}.conv2", f"{ours}.{unit}.conv2")
    rules += conv_bn(f"{head}.project", "decoder.head.convs.0")
    return [
        *rules,
        rest(f"{head}.conv_seg", "decoder.head.classifier"),
        *mmseg_fcn_head("auxiliary_head.", "auxiliary.aux."),
    ]


def _smp() -> list[Rule]:
    rules = [
        Rule("encoder.model.norm.{*}", None),
        Rule("encoder.model.fc_norm.{*}", None),
        Rule("encoder.model.head.{*}", None),
        *timm_rules("encoder.model.", "backbone."),
        rest("decoder.projection_blocks.{}.project.0", "decoder.reassemble.{}.readout"),
        rest("decoder.reassemble_blocks.{}.project_to_out_channel", "decoder.reassemble.{}.project"),
        rest("decoder.reassemble_blocks.{}.upsample", "decoder.reassemble.{}.resize"),
        rest("decoder.reassemble_blocks.{}.project_to_feature_dim", "decoder.laterals.{}"),
    ]
    for i in LEVELS:
        fusion, ours = f"decoder.fusion_blocks.{3 - i}", f"decoder.fusions.{i}"
        rules.append(rest(f"{fusion}.project", f"{ours}.out"))
        for n, unit in ((1, "skip_unit"), (2, "unit")):
            theirs = f"{fusion}.residual_conv_block{n}"
            rules += _unit(f"{theirs}.conv_{{n}}", f"{theirs}.batch_norm_{{n}}", f"{ours}.{unit}")
    return [*rules, *_head("segmentation_head.head", "decoder.head")]


def _decoder(
    state: Mapping[str, Tensor], laterals: Sequence[str], readout: str, classifier: str, auxiliary: str = ""
) -> dict[str, Any]:
    """laterals: keys of the levels' 3×3 convolutions, finest first; readout: of a linear layer that only "project" has"""
    found: dict[str, Any] = {
        "num_classes": state[classifier].shape[0],
        "readout": "project" if readout in state else "ignore",
        "decoder_channels": state[laterals[0]].shape[0],
        "supervised": auxiliary in state,
    }
    widths = tuple(state[key].shape[1] for key in laterals)
    return found if widths == tuple(widths[-1] * 2**i // 8 for i in LEVELS) else found | {"widths": widths}


def _authors_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    prefix = "pretrained.model."
    keys: dict[str, Any] = {name: f"{prefix}{key}" for name, key in TIMM_KEYS.items()}
    found = _decoder(
        state,
        [f"scratch.layer{i + 1}_rn.weight" for i in LEVELS],
        "pretrained.act_postprocess4.0.project.0.weight",
        "scratch.output_conv.4.weight",
        "auxlayer.4.weight",
    )
    stem = f"{prefix}patch_embed.backbone.stem.conv.weight"
    if stem not in state:
        return found | sized(vit_arguments(state, **keys), 16, 384, **BILINEAR)
    own = vit_arguments(state, **keys, stride=16)
    if (own["embed_dim"], own["depth"], own["image_size"]) != (768, 12, 384):
        raise ValueError("the authors' hybrid stands on R50+B/16 of 384 pixels")
    return found | {
        "backbone": "vit_base_r50_s16_384",
        "backbone_arguments": {**BILINEAR, "filter_eps": (0.0, 1e-5)},
        "in_channels": state[stem].shape[1],
    }


def _transformers_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    own = vit_arguments(state, **transformers_keys("dpt."))
    return sized(own, 16, 384, norm_eps=1e-12, **BILINEAR) | _decoder(
        state,
        [f"neck.convs.{i}.weight" for i in LEVELS],
        "neck.reassemble_stage.readout_projects.0.0.weight",
        "head.head.4.weight",
        "auxiliary_head.head.4.weight",
    )


def _mmseg_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    keys: dict[str, Any] = {name: f"backbone.{key}" for name, key in OPENMMLAB_KEYS.items()}
    own = vit_arguments(state, **keys)
    found = _decoder(
        state,
        [f"decode_head.convs.{i}.conv.weight" for i in LEVELS],
        "decode_head.reassemble_blocks.readout_projects.0.0.weight",
        "decode_head.conv_seg.weight",
    )
    auxiliary = "auxiliary_head.conv_seg.weight" in state
    return sized(own, 16, 384, norm_eps=1e-5, **BICUBIC) | found | {"align_corners": False, "auxiliary": auxiliary}


def _smp_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    keys: dict[str, Any] = {name: f"encoder.model.{key}" for name, key in TIMM_KEYS.items()}
    own = vit_arguments(state, **keys)
    found = _decoder(
        state,
        [f"decoder.reassemble_blocks.{i}.project_to_feature_dim.weight" for i in LEVELS],
        "decoder.projection_blocks.0.project.0.weight",
        "segmentation_head.head.4.weight",
    )
    return sized(own, 16, 384, interpolation="bicubic", antialias=True) | found | {"deepest_unit": True}


def _layout(
    name: str,
    rules: list[Rule],
    arguments: Callable[[Mapping[str, Tensor]], dict[str, Any]],
    source: str,
    goldens: Mapping[str, Golden] | None = None,
) -> Layout:
    return Layout(name, "dpt_base", tuple(rules), arguments, f"https://github.com/{source}", goldens=goldens or {})


UNUSED = ("pretrained.model.norm.*", "pretrained.model.head.*", "scratch.refinenet4.resConfUnit1.*")
LAYOUTS = (
    _layout(
        "dpt/authors",
        _authors(),
        _authors_arguments,
        "isl-org/DPT",
        {
            "transformer/dpt-base-add": Golden({"out": "forward"}, {"readout": "add"}, dropped=UNUSED),
            "transformer/dpt-hybrid-ade": Golden({"out/logits": "forward"}, dropped=UNUSED),
        },
    ),
    _layout("dpt/transformers", _transformers(), _transformers_arguments, "huggingface/transformers"),
    _layout("dpt/mmseg", _mmseg(), _mmseg_arguments, "open-mmlab/mmsegmentation"),
    _layout("dpt/smp", _smp(), _smp_arguments, "qubvel-org/segmentation_models.pytorch"),
)
