"""HTC and Cascade Mask R-CNN as mmdetection stores them; the heads by a stored network, the rest by its code."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from segmentarium.weights.layouts.mask_rcnn import (
    mmdet_arguments,
    mmdet_box_head,
    mmdet_facts,
    mmdet_mask_head,
    mmdet_rules,
)
from segmentarium.weights.layouts.parts import rest
from segmentarium.weights.table import Layout, Rule


def head_rules(ours: str = "decoder.") -> list[Rule]:
    """Its heads of three stages, and the semantic branch; prefix ending in a dot."""
    semantic = "roi_head.semantic_head"
    return [
        *mmdet_box_head("roi_head.bbox_head.{}", f"{ours}boxes.{{}}"),
        *mmdet_mask_head("roi_head.mask_head.{}", f"{ours}masks.{{}}"),
        rest(f"{semantic}.lateral_convs.{{}}.conv", f"{ours}semantic.laterals.{{}}.conv"),
        rest(f"{semantic}.convs.{{}}.conv", f"{ours}semantic.convs.{{}}.conv"),
        rest(f"{semantic}.conv_embedding.conv", f"{ours}semantic.embed.conv"),
        rest(f"{semantic}.conv_logits", f"{ours}semantic.classifier"),
    ]


def _arguments(state: Mapping[str, Tensor], *, hybrid: bool) -> dict[str, Any]:
    found = {
        **mmdet_arguments(state, "0."),
        "stages": len({key.split(".")[2] for key in state if key.startswith("roi_head.bbox_head.")}),
        "classwise": state["roi_head.bbox_head.0.fc_reg.weight"].shape[0] > 4,
    }
    if hybrid:
        found["semantic_classes"] = state["roi_head.semantic_head.conv_logits.weight"].shape[0]
    return found


RULES = (*mmdet_rules(), *head_rules())
MMDET = "https://github.com/open-mmlab/mmdetection"
LAYOUTS = (
    Layout("htc/mmdet", "htc_resnet50", RULES, partial(_arguments, hybrid=True), MMDET, mmdet_facts),
    Layout(
        "cascade_mask_rcnn/mmdet",
        "cascade_mask_rcnn_resnet50",
        RULES,
        partial(_arguments, hybrid=False),
        MMDET,
        mmdet_facts,
    ),
)
