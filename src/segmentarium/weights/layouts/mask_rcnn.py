"""Mask R-CNN as torchvision stores both versions, mmdetection and detectron2.

torchvision's were compared with its own networks.  The others rest on their code: the heads' names are those of the stored head
of HTC, and detectron2's trunk and pyramid those of PointRend.  torchvision's first published file has batch norms whose epsilon
is 0, which no tensor tells: such a file has no counts of batches, and is taken for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from segmentarium.preprocessing import Preprocessing
from segmentarium.weights.layouts.gcnet import trunk_arguments, trunk_blocks
from segmentarium.weights.layouts.parts import neighbours, rest
from segmentarium.weights.layouts.resnet import (
    detectron2_conv,
    detectron2_depth,
    detectron2_rules,
    resnet_name,
    resnet_rules,
)
from segmentarium.weights.layouts.resnext import groups_of, trunk_name
from segmentarium.weights.table import Layout, Rule

LVIS = (1203, 1230)  # classes of its two versions: so many detections, and so unsure ones, are wanted there
OF_LVIS = {"detections": 300, "score": 1e-4}
CLASSES, DELTAS = "decoder.boxes.0.classifier.scores", "decoder.boxes.0.deltas"


def published(**facts: Any) -> dict[str, Any]:
    """What is known of files of networks that see pictures with a shorter side of 800 and a longer of 1333 at most."""
    return {"preprocessing": Preprocessing(**facts, short_side=800, long_side=1333).as_dict()}


def of_classes(number: int) -> dict[str, Any]:
    return {"num_classes": number, **(OF_LVIS if number in LVIS else {})}


def of_seesaw(number: int) -> dict[str, Any]:
    """Trained by seesaw loss, with a normalised box classifier as all published ones; whether that of masks is normalised, too
    (`mask_classifier="cosine"`), no tensor tells."""
    told = {"num_classes": number}
    return of_classes(number) | {"classifier": "seesaw", "class_loss": "seesaw", "class_loss_arguments": told}


# torchvision --------------------------------------------------------------------------------------------------------------


def _torchvision() -> list[Rule]:
    rules = resnet_rules("backbone.body.", "backbone.")
    for theirs, ours in (("inner_blocks", "laterals"), ("layer_blocks", "outputs")):
        for middle in (".0", ""):  # the latter until version 0.13
            rules.append(Rule(f"backbone.fpn.{theirs}.{{}}{middle}.{{}}", f"decoder.pyramid.{ours}.{{}}.{{}}"))
    rules += [
        rest("rpn.head.conv.0.0", "decoder.rpn.convs.0.conv"),
        Rule("rpn.head.conv.{}", "decoder.rpn.convs.0.conv.{}"),
    ]
    rules += [rest(f"roi_heads.box_head.fc{6 + i}", f"decoder.boxes.0.layers.{i}") for i in (0, 1)]
    for i in range(4):
        names = (f"{i}.0", f"mask_fcn{i + 1}")
        rules += [rest(f"roi_heads.mask_head.{name}", f"decoder.masks.0.convs.{i}.conv") for name in names]
    return [*rules, *_predictors()]


def _predictors() -> list[Rule]:
    return [
        rest("rpn.head.cls_logits", "decoder.rpn.objectness"),
        rest("rpn.head.bbox_pred", "decoder.rpn.deltas"),
        Rule("roi_heads.box_predictor.cls_score.{}", f"{CLASSES}.{{}}", rolled=1),
        Rule("roi_heads.box_predictor.bbox_pred.{}", f"{DELTAS}.{{}}", rolled=4),
        rest("roi_heads.mask_predictor.conv5_mask", "decoder.masks.0.enlarge"),
        Rule("roi_heads.mask_predictor.mask_fcn_logits.{}", "decoder.masks.0.classifier.{}", rolled=1),
    ]


def _second() -> list[Rule]:
    rules = resnet_rules("backbone.body.", "backbone.")
    for theirs, ours in (("inner_blocks", "laterals"), ("layer_blocks", "outputs")):
        rules += neighbours(f"backbone.fpn.{theirs}.{{}}", f"decoder.pyramid.{ours}.{{}}")
    rules += [rest(f"rpn.head.conv.{i}.0", f"decoder.rpn.convs.{i}.conv") for i in range(2)]
    for i in range(4):
        rules += neighbours(f"roi_heads.box_head.{i}", f"decoder.boxes.0.convs.{i}")
        rules += neighbours(f"roi_heads.mask_head.{i}", f"decoder.masks.0.convs.{i}")
    return [*rules, rest("roi_heads.box_head.5", "decoder.boxes.0.layers.0"), *_predictors()]


def _torchvision_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    fully = ("roi_heads.box_head.fc7.weight", "roi_heads.box_head.5.weight")
    last = fully[0] if fully[0] in state else fully[1]
    rpn = [key for key in state if key.startswith("rpn.head.conv.") and key.endswith(".weight")]
    found = {
        "num_classes": state["roi_heads.box_predictor.cls_score.weight"].shape[0] - 1,
        "in_channels": state["backbone.body.conv1.weight"].shape[1],
        "backbone": resnet_name(state, "backbone.body."),
        "width": state[rpn[0]].shape[0],
        "hidden": state[last].shape[0],
        "mask_width": state["roi_heads.mask_predictor.conv5_mask.weight"].shape[0],
    }
    return found if "backbone.body.bn1.num_batches_tracked" in state or len(rpn) > 1 else {**found, "norm_eps": 0.0}


# mmdetection --------------------------------------------------------------------------------------------------------------


def mmdet_rules() -> list[Rule]:
    """What all of its detectors here share: trunk, pyramid, proposals."""
    return [
        *resnet_rules("backbone.", "backbone."),
        *trunk_blocks(),
        rest("neck.lateral_convs.{}.conv", "decoder.pyramid.laterals.{}"),
        rest("neck.fpn_convs.{}.conv", "decoder.pyramid.outputs.{}"),
        rest("rpn_head.rpn_conv", "decoder.rpn.convs.0.conv"),
        rest("rpn_head.rpn_cls", "decoder.rpn.objectness"),
        rest("rpn_head.rpn_reg", "decoder.rpn.deltas"),
    ]


def mmdet_box_head(theirs: str, ours: str) -> list[Rule]:
    return [
        rest(f"{theirs}.shared_fcs.{{}}", f"{ours}.layers.{{}}"),
        rest(f"{theirs}.fc_cls", f"{ours}.classifier.scores"),
        rest(f"{theirs}.fc_reg", f"{ours}.deltas"),
        Rule(f"{theirs}.loss_cls.cum_samples", None),  # of seesaw loss: objects seen so far
    ]


def mmdet_mask_head(theirs: str, ours: str) -> list[Rule]:
    return [
        rest(f"{theirs}.convs.{{}}.conv", f"{ours}.convs.{{}}.conv"),
        rest(f"{theirs}.conv_res.conv", f"{ours}.previous.conv"),
        rest(f"{theirs}.upsample", f"{ours}.enlarge"),
        rest(f"{theirs}.conv_logits", f"{ours}.classifier"),
    ]


def mmdet_arguments(state: Mapping[str, Tensor], stage: str = "") -> dict[str, Any]:
    """stage: "" or "0.", behind the names of its heads."""
    head = f"roi_head.bbox_head.{stage}"
    outputs = state[f"{head}fc_cls.weight"].shape[0]
    seesaw = f"{head}loss_cls.cum_samples" in state
    return {
        **(of_seesaw(outputs - 2) if seesaw else of_classes(outputs - 1)),
        **trunk_arguments(state),
        "in_channels": state["backbone.conv1.weight"].shape[1],
        "backbone": trunk_name(resnet_name(state, "backbone."), state["backbone.layer1.0.conv2.weight"]),
        "width": state["neck.lateral_convs.0.conv.weight"].shape[0],
        "hidden": state[f"roi_head.bbox_head.{stage}shared_fcs.0.weight"].shape[0],
        "mask_width": state[f"roi_head.mask_head.{stage}convs.0.conv.weight"].shape[0],
    }


def mmdet_facts(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return published()


# detectron2 ---------------------------------------------------------------------------------------------------------------


def _detectron2() -> list[Rule]:
    trunk = "backbone.bottom_up."
    first = Rule(f"{trunk}stem.conv1.weight", "backbone.stem.0.conv.weight", bgr=1)
    rules = [first, *detectron2_rules(trunk, "backbone."), *detectron2_conv(f"{trunk}stem.conv1", "backbone.stem.0")]
    for i in range(4):
        rules += [
            rest(f"backbone.fpn_lateral{i + 2}", f"decoder.pyramid.laterals.{i}"),
            rest(f"backbone.fpn_output{i + 2}", f"decoder.pyramid.outputs.{i}"),
            rest(f"roi_heads.mask_head.mask_fcn{i + 1}", f"decoder.masks.0.convs.{i}.conv"),
        ]
    return [
        *rules,
        rest("proposal_generator.rpn_head.conv", "decoder.rpn.convs.0.conv"),
        rest("proposal_generator.rpn_head.objectness_logits", "decoder.rpn.objectness"),
        rest("proposal_generator.rpn_head.anchor_deltas", "decoder.rpn.deltas"),
        Rule("proposal_generator.anchor_generator.{*}", None),
        *(rest(f"roi_heads.box_head.fc{i + 1}", f"decoder.boxes.0.layers.{i}") for i in range(2)),
        rest("roi_heads.box_predictor.cls_score", CLASSES),
        rest("roi_heads.box_predictor.bbox_pred", DELTAS),
        rest("roi_heads.mask_head.deconv", "decoder.masks.0.enlarge"),
        rest("roi_heads.mask_head.predictor", "decoder.masks.0.classifier"),
    ]


def _detectron2_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    trunk = "backbone.bottom_up."
    name = f"resnet{detectron2_depth(state, trunk)}"
    name = trunk_name(name, state[f"{trunk}res2.0.conv2.weight"])
    return {
        **of_classes(state["roi_heads.box_predictor.cls_score.weight"].shape[0] - 1),
        "in_channels": state[f"{trunk}stem.conv1.weight"].shape[1],
        "backbone": name,
        **({"backbone_arguments": {"stride_first": True}} if "resnext" not in name else {}),
        "width": state["backbone.fpn_lateral2.weight"].shape[0],
        "hidden": state["roi_heads.box_head.fc1.weight"].shape[0],
        "mask_width": state["roi_heads.mask_head.deconv.weight"].shape[0],
        "form": "detectron2",
    }


def _caffe(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The ResNets' pictures have a deviation of 1 of 255, the ResNeXts' one of their own."""
    grouped = groups_of(state["backbone.bottom_up.res2.0.conv2.weight"])[0] > 1
    deviation = (58.395, 57.12, 57.375) if grouped else (1.0,) * 3
    mean = tuple(value / 255 for value in (123.675, 116.28, 103.53))
    return published(mean=mean, std=tuple(value / 255 for value in deviation))


TORCHVISION = "https://github.com/pytorch/vision"
LAYOUTS = (
    Layout(
        "mask_rcnn/torchvision",
        "mask_rcnn_resnet50_torchvision",
        tuple(_torchvision()),
        _torchvision_arguments,
        TORCHVISION,
        mmdet_facts,
    ),
    Layout(
        "mask_rcnn/torchvision_v2",
        "mask_rcnn_resnet50_v2",
        tuple(_second()),
        _torchvision_arguments,
        TORCHVISION,
        mmdet_facts,
    ),
    Layout(
        "mask_rcnn/mmdet",
        "mask_rcnn_resnet50",
        (
            *mmdet_rules(),
            *mmdet_box_head("roi_head.bbox_head", "decoder.boxes.0"),
            *mmdet_mask_head("roi_head.mask_head", "decoder.masks.0"),
        ),
        mmdet_arguments,
        "https://github.com/open-mmlab/mmdetection",
        mmdet_facts,
    ),
    Layout(
        "mask_rcnn/detectron2",
        "mask_rcnn_resnet50",
        tuple(_detectron2()),
        _detectron2_arguments,
        "https://github.com/facebookresearch/detectron2",
        _caffe,
    ),
)
