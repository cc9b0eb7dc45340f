"""Mask R-CNN: each proposed region is classified, its box is moved, and it is given a mask.

The mask of each class is told by itself, so that classes do not compete for pixels; a region's class decides which one is read.
Regions are cut out by interpolation, without rounding (RoIAlign).  Here it stands on a feature pyramid, as all published weights
do.  It is the network of `cascade.py` with one stage.

What the public code does and the paper does not say.  torchvision: RoIAlign of its first form, two samples a cell; anchors
rounded; every object gets its best anchors, however little they overlap; masks are learned as shares of cells, and pasted in
whole pixels; deltas and masks of the background, which nothing uses.  Its second version has batch norm in pyramid and heads, two
convolutions in the proposal network, four and one layer in the box head.  mmdetection and detectron2: L1 instead of smooth L1.
What we change: see `htc.py`; torchvision's pictures are padded to multiples of 32, at other sizes ours are not.

Published: COCO val box / mask AP 37.9 / 34.6 (torchvision), 47.4 / 41.8 (its second version), 38.2 / 34.7 (mmdetection,
ResNet-50, 12 epochs), 40.0 / 36.1 (ResNet-101).

Recipe of torchvision: SGD 0.02 for 16 pictures, momentum 0.9, decay 1e-4, shorter side 800, flips, 26 epochs, rate ×0.1 after 16
and 22.
"""

from __future__ import annotations

from typing import Any

from segmentarium.composition import register_decoder
from segmentarium.instances.cascade import CascadeDecoder
from segmentarium.instances.htc import TINY, card
from segmentarium.registry import Paper

PAPER = Paper(
    title="Mask R-CNN",
    authors="He, Gkioxari, Dollár, Girshick",
    venue="ICCV",
    year=2017,
    url="https://arxiv.org/abs/1703.06870",
    code="https://github.com/facebookresearch/detectron2",
    code_licence="Apache-2.0",
)
ONE: dict[str, Any] = {"stages": 1, "classwise": True}
L1: dict[str, Any] = {"rpn_beta": 0.0, "box_beta": 0.0}
TORCHVISION: dict[str, Any] = {**ONE, "form": "torchvision", "box_beta": 1 / 9}
SECOND: dict[str, Any] = {**TORCHVISION, "norm": "batch", "rpn_convs": 2, "box_convs": 4, "box_layers": 1}

for _depth, _box, _mask in ((18, None, None), (34, None, None), (50, 38.2, 34.7), (101, 40.0, 36.1)):
    register_decoder(
        f"mask_rcnn_resnet{_depth}",
        CascadeDecoder,
        card(PAPER, _box, _mask),
        tiny=TINY,
        backbone=f"resnet{_depth}",
        **ONE,
        **L1,
    )
for _name, _arguments, _parameters, _box, _mask in (
    ("mask_rcnn_resnet50_torchvision", TORCHVISION, 44.40, 37.9, 34.6),
    ("mask_rcnn_resnet50_v2", SECOND, 46.36, 47.4, 41.8),
):
    register_decoder(
        _name, CascadeDecoder, card(PAPER, _box, _mask, 90, _parameters), tiny=TINY, backbone="resnet50", **_arguments
    )
