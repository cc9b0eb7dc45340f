"""ICNet as the PyTorch port of the released network and as mmsegmentation store it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from segmentarium.contracts import Preprocessing
from segmentarium.weights.layouts.parts import conv_bn
from segmentarium.weights.layouts.resnet import resnet_name, resnet_rules
from segmentarium.weights.table import Golden, Layout, Output, Rule


def _unit(theirs: str, ours: str, *, blue_first: bool = False) -> list[Rule]:
    """A convolution and its batch norm, neighbours in a Sequential."""
    return [
        Rule(f"{theirs}.0.weight", f"{ours}.conv.weight", bgr=1 if blue_first else None),
        Rule(f"{theirs}.1.{{}}", f"{ours}.norm.{{}}"),
    ]


def _block(theirs: str, ours: str) -> list[Rule]:
    rules = _unit(f"{theirs}.cbr1.cbr_unit", f"{ours}.conv1") + _unit(f"{theirs}.cbr2.cbr_unit", f"{ours}.conv2")
    return rules + _unit(f"{theirs}.cb3.cb_unit", f"{ours}.conv3") + _unit(f"{theirs}.cb4.cb_unit", f"{ours}.shortcut")


def _caffe() -> list[Rule]:
    rules: list[Rule] = []
    for i in range(3):
        rules += _unit(f"convbnrelu1_{i + 1}.cbr_unit", f"backbone.stem.{i}", blue_first=i == 0)
        rules += _unit(f"convbnrelu{i + 1}_sub1.cbr_unit", f"detail.{i}", blue_first=i == 0)
        rules += _block(f"res_block3_identity.layers.{i}", f"backbone.layer2.{i + 1}")
    rules += _block("res_block3_conv.layers.0", "backbone.layer2.0")
    for theirs, ours in ((2, 1), (4, 3), (5, 4)):
        rules += _block(f"res_block{theirs}.layers.{{}}", f"backbone.layer{ours}.{{}}")
    rules += _unit("conv5_4_k1.cbr_unit", "reduce")
    for theirs, ours, auxiliary in (("cff_sub24", "fuse16", "aux_16"), ("cff_sub12", "fuse8", "aux_8")):
        rules += _unit(f"{theirs}.low_dilated_conv_bn.cb_unit", f"{ours}.low")
        rules += _unit(f"{theirs}.high_proj_conv_bn.cb_unit", f"{ours}.high")
        rules += [Rule(f"{theirs}.low_classifier_conv.{{}}", f"auxiliary.{auxiliary}.{{}}")]
    # the sum of the pyramid has no convolutions: the port makes these and never calls them
    return [*rules, Rule("classification.{}", "classifier.{}"), Rule("pyramid_pooling.path_module_list.{*}", None)]


def _caffe_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    width, in_channels = state["convbnrelu1_1.cbr_unit.0.weight"].shape[:2]
    return {"num_classes": state["classification.weight"].shape[0], "in_channels": in_channels, "width": width}


def _caffe_facts(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The release takes 0..255 minus a mean."""
    preprocessing = Preprocessing((123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255, 1 / 255, 1 / 255))
    return {"preprocessing": preprocessing.as_dict()}


def _mmseg() -> list[Rule]:
    rules = resnet_rules("backbone.backbone.", "backbone.", stem="mmseg")
    for theirs, ours in (
        ("backbone.conv_sub1.{}", "detail.{}"),
        ("backbone.psp_modules.{}.1", "pyramid.branches.{}"),
        ("backbone.psp_bottleneck", "bottleneck"),
        ("backbone.conv_sub2", "reduce16"),
        ("backbone.conv_sub4", "reduce32"),
        ("neck.cff_24.conv_low", "fuse16.low"),
        ("neck.cff_24.conv_high", "fuse16.high"),
        ("neck.cff_12.conv_low", "fuse8.low"),
        ("neck.cff_12.conv_high", "fuse8.high"),
    ):
        rules += conv_bn(theirs, ours)
    for theirs, ours in (
        ("decode_head", "head"),
        ("auxiliary_head.0", "auxiliary.aux_16"),
        ("auxiliary_head.1", "auxiliary.aux_8"),
    ):
        rules += [*conv_bn(f"{theirs}.convs.0", f"{ours}.0"), Rule(f"{theirs}.conv_seg.{{}}", f"{ours}.2.{{}}")]
    return rules


def _mmseg_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        "num_classes": state["decode_head.conv_seg.weight"].shape[0],
        "in_channels": state["backbone.conv_sub1.0.conv.weight"].shape[1],
        "backbone": resnet_name(state, "backbone.backbone.", deep_stem="backbone.backbone.stem.6.weight"),
        "channels": state["backbone.psp_bottleneck.conv.weight"].shape[0],
    }


UNUSED = ("pyramid_pooling.path_module_list.*",)
LAYOUTS = (
    Layout(
        "icnet/caffe",
        "icnet",
        tuple(_caffe()),
        _caffe_arguments,
        "https://github.com/meetps/pytorch-semseg",
        _caffe_facts,
        {
            "realtime/icnet-caffe-small": Golden(
                {
                    "out/logits_s2": Output("forward", step=2),
                    "out/sub124_cls": "logits",
                    "out/sub24_cls": "aux_8",
                    "out/sub4_cls": "aux_16",
                },
                dropped=UNUSED,
            ),
            "realtime/icnet-caffe-full": Golden(
                {
                    "out/logits_s16": Output("forward", step=16),
                    "out/sub124_cls_s8": Output("logits", step=8),
                    "out/sub24_cls_s4": Output("aux_8", step=4),
                    "out/sub4_cls_s2": Output("aux_16", step=2),
                },
                {"windows": "release"},
                dropped=UNUSED,
            ),
        },
    ),
    Layout(
        "icnet/mmseg",
        "icnet_resnet18",
        tuple(_mmseg()),
        _mmseg_arguments,
        "https://github.com/open-mmlab/mmsegmentation",
        goldens={
            "realtime/icnet-mmseg-r18": Golden({"out/logits": "logits", "out/aux0": "aux_16", "out/aux1": "aux_8"})
        },
    ),
)
