"""OCRNet as HRNet's authors, as openseg and as mmsegmentation store it.

openseg's tables rest on its code (MIT) and no file of its: its ResNet's pooling rounds up, ours down, so that its maps are a row
and a column larger where the stem's are even; sizes of 8 n + 1 give the same.  Its files with in-place activated norms and its
network with atrous pooling (ASP-OCR) are not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from segmentarium.weights.layouts.hrnet import hrnet_backbone, hrnet_rules
from segmentarium.weights.layouts.mobilenet_v2 import unit
from segmentarium.weights.layouts.parts import conv_bn, rest
from segmentarium.weights.layouts.resnet import block_rules, resnet_depth, resnet_name, resnet_rules
from segmentarium.weights.table import Layout, Rule


def mmseg_heads(theirs: str = "decode_head.", ours: str = "decoder.") -> list[Rule]:
    """Its cascade of FCNHead and OCRHead, prefixes ending in a dot."""
    block, mine = f"{theirs}1.object_context_block", f"{ours}attention"
    return [
        *conv_bn(f"{theirs}0.convs.0", f"{ours}coarse.conv"),
        rest(f"{theirs}0.conv_seg", f"{ours}coarse.classifier"),
        *conv_bn(f"{theirs}1.bottleneck", f"{ours}pixels"),
        *conv_bn(f"{block}.query_project.{{}}", f"{mine}.query.{{}}"),
        *conv_bn(f"{block}.key_project.{{}}", f"{mine}.key.{{}}"),
        *conv_bn(f"{block}.value_project", f"{mine}.value"),
        rest(f"{block}.out_project.conv", f"{mine}.widen"),
        rest(f"{block}.out_project.bn", f"{mine}.norm"),
        *conv_bn(f"{block}.bottleneck", f"{ours}fuse"),
        rest(f"{theirs}1.conv_seg", f"{ours}classifier"),
    ]


def _sizes(state: Mapping[str, Tensor], coarse: str, pixels: str, query: str, head: str) -> dict[str, Any]:
    """What the heads' convolutions say, by their names."""
    weight = state[f"{coarse}.weight"]
    return {
        "num_classes": state[f"{head}.weight"].shape[0],
        "width": state[f"{pixels}.weight"].shape[0],
        "key_channels": state[f"{query}.weight"].shape[0],
        "coarse_width": weight.shape[0],
        "coarse_kernel": weight.shape[-1],
    }


def _mmseg_arguments(state: Mapping[str, Tensor], hrnet: bool) -> dict[str, Any]:
    block = "decode_head.1.object_context_block"
    found = _sizes(
        state,
        "decode_head.0.convs.0.conv",
        "decode_head.1.bottleneck.conv",
        f"{block}.query_project.0.conv",
        "decode_head.1.conv_seg",
    )
    if hrnet:
        channels = state["backbone.conv1.weight"].shape[1]
        return found | hrnet_backbone(state, "backbone.", upsample="bilinear") | {"in_channels": channels}
    return found | {
        "backbone": resnet_name(state, "backbone.", deep_stem="backbone.stem.6.weight"),
        "in_channels": state["backbone.stem.0.weight"].shape[1],
    }


def authors_heads(
    prefix: str = "",
    ours: str = "decoder.",
    *,
    pixels: str = "conv3x3_ocr",
    attention: str = "ocr_distri_head",
    head: str = "cls_head",
    coarse: str = "aux_head",
    coarse_classifier: int = 3,
    inner: str = "1",
) -> list[Rule]:
    """The authors' heads under a prefix, and by other names openseg's.

    inner   where the norm of `pixels` and `coarse` stands: "1", or "1.0" in a Sequential of its own
    """

    def pair(theirs: str, mine: str, norm: str = "1.0", first: int = 0) -> list[Rule]:
        step, _, deeper = norm.partition(".")
        place = ".".join(filter(None, (str(first + int(step)), deeper)))
        return [rest(f"{theirs}.{first}", f"{mine}.conv"), rest(f"{theirs}.{place}", f"{mine}.norm")]

    block, mine = f"{prefix}{attention}.object_context_block", f"{ours}attention"
    rules = [
        *pair(f"{prefix}{coarse}", f"{ours}coarse.conv", inner),
        rest(f"{prefix}{coarse}.{coarse_classifier}", f"{ours}coarse.classifier"),
        *pair(f"{prefix}{pixels}", f"{ours}pixels", inner),
    ]
    for theirs, name in (("f_pixel", "query"), ("f_object", "key")):
        for i in (0, 1):
            rules += pair(f"{block}.{theirs}", f"{mine}.{name}.{i}", first=2 * i)
    return [
        *rules,
        *pair(f"{block}.f_down", f"{mine}.value"),
        rest(f"{block}.f_up.0", f"{mine}.widen"),
        rest(f"{block}.f_up.1.0", f"{mine}.norm"),
        *pair(f"{prefix}{attention}.conv_bn_dropout", f"{ours}fuse"),
        rest(f"{prefix}{head}", f"{ours}classifier"),
    ]


def _hrnet_arguments(state: Mapping[str, Tensor], prefix: str, trunk: str, pixels: str) -> dict[str, Any]:
    query = f"{prefix}ocr_distri_head.object_context_block.f_pixel.0"
    sizes = _sizes(state, f"{prefix}aux_head.0", f"{prefix}{pixels}.0", query, f"{prefix}cls_head")
    return {
        **sizes,
        **hrnet_backbone(state, trunk, upsample="aligned"),
        "in_channels": state[f"{trunk}conv1.weight"].shape[1],
        "bias": f"{prefix}aux_head.0.bias" in state,
        "attention_bias": f"{query}.bias" in state,
    }


def _openseg_resnet() -> list[Rule]:
    rules = block_rules("backbone.", "backbone.")
    for i in (1, 2, 3):
        rules += unit(f"backbone.resinit.conv{i}", f"backbone.resinit.bn{i}", f"backbone.stem.{i - 1}")
    return rules


def _openseg_resnet_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    query = "spatial_ocr_head.object_context_block.f_pixel.0"
    return {
        **_sizes(state, "dsn_head.0", "conv_3x3.0", query, "head"),
        "backbone": f"resnet{resnet_depth(state, 'backbone.')}_v1s",
        "in_channels": state["backbone.resinit.conv1.weight"].shape[1],
        "bias": "dsn_head.0.bias" in state,
        "attention_bias": f"{query}.bias" in state,
        "align_corners": True,
        "dropout": 0.05,
    }


AUTHORS = "https://github.com/HRNet/HRNet-Semantic-Segmentation"
OPENSEG = "https://github.com/openseg-group/openseg.pytorch"
MMSEG = "https://github.com/open-mmlab/mmsegmentation"
LAYOUTS = (
    Layout(
        "ocrnet/authors",
        "ocrnet",
        (*hrnet_rules("", "backbone."), *authors_heads()),
        partial(_hrnet_arguments, prefix="", trunk="", pixels="conv3x3_ocr"),
        AUTHORS,
    ),
    Layout(
        "ocrnet/authors_trained",  # as their training writes them: the model beside its loss
        "ocrnet",
        (*hrnet_rules("model.", "backbone."), *authors_heads("model."), Rule("loss.{*}", None)),
        partial(_hrnet_arguments, prefix="model.", trunk="model.", pixels="conv3x3_ocr"),
        AUTHORS,
    ),
    Layout(
        "ocrnet/openseg_hrnet",
        "ocrnet",
        (
            *hrnet_rules("backbone.", "backbone."),
            *authors_heads(pixels="conv3x3", coarse_classifier=2, inner="1.0"),
        ),
        partial(_hrnet_arguments, prefix="", trunk="backbone.", pixels="conv3x3"),
        OPENSEG,
    ),
    Layout(
        "ocrnet/openseg",
        "ocrnet_resnet101",
        (
            *_openseg_resnet(),
            *authors_heads(
                pixels="conv_3x3", attention="spatial_ocr_head", head="head", coarse="dsn_head", inner="1.0"
            ),
        ),
        _openseg_resnet_arguments,
        OPENSEG,
    ),
    Layout(
        "ocrnet/mmseg",
        "ocrnet_resnet101",
        (*resnet_rules("backbone.", "backbone.", stem="mmseg"), *mmseg_heads()),
        partial(_mmseg_arguments, hrnet=False),
        MMSEG,
    ),
    Layout(
        "ocrnet/mmseg_hrnet",
        "ocrnet_hr18",
        (*hrnet_rules("backbone.", "backbone."), *mmseg_heads()),
        partial(_mmseg_arguments, hrnet=True),
        MMSEG,
    ),
)
