"""Hybrid task cascade: boxes and masks are refined stage by stage, each told what the other and the scene say.

Three stages classify and move the boxes of the one before, and each learns from boxes that overlap their object better (0.5, 0.6,
0.7; Cascade R-CNN).  Three things are new.  The mask of a stage is learned on the boxes that this stage has moved already
(interleaved execution).  What a mask head has understood is added to what the next one sees (mask information flow).  And a
semantic branch, learned from the class of every pixel, is seen by all heads.

Mask R-CNN is the case of one stage, Cascade Mask R-CNN that of three without the three new things: they are this class, built
otherwise (`mask_rcnn.py`, `cascade_mask_rcnn.py`).

What the public code does and the paper does not say: boxes of all classes share their deltas; at test the stages' class scores
are averaged before the softmax, and the last stage's deltas are taken; between the stages boxes are cut off at the image; the
semantic branch has corners on corners where it brings levels to one size; the first mask head takes in nothing.  Masks of the
three stages are averaged as probabilities (the paper, and mmdetection 2); mmdetection 3 takes the last one's alone
(`ensemble="last"`).
What we change: crowds and void count nowhere.  A box that stands for nothing and lies for more than a half on them is not learned
from, and a cell of a mask on them neither; theirs take such boxes for background.  An anchor that is an object's best stands for
the object that it overlaps most, as in Detectron; theirs stands for the one whose best it is.  The trunk's first stage is
trained, too; theirs is frozen.  Without label maps of stuff the semantic branch learns the things, and one class of all else.

Published: COCO val box / mask AP 42.3 / 37.4 (ResNet-50, 12 epochs), 43.3 / 38.3 (20 epochs), 44.8 / 39.6 (ResNet-101).

Recipe of the authors: SGD 0.02 for 16 pictures, momentum 0.9, decay 1e-4, gradients clipped to 35, 1333×800, flips, 12 or 20
epochs, rate ×0.1 after 8 and 11 (16 and 19).
"""

from __future__ import annotations

from typing import Any

from segmentarium.composition import register_decoder
from segmentarium.instances.cascade import CascadeDecoder
from segmentarium.registry import Card, Paper

PAPER = Paper(
    title="Hybrid Task Cascade for Instance Segmentation",
    authors="Chen, Pang, Wang, Xiong, Li, Sun, Feng, Liu, Shi, Ouyang, Loy, Lin",
    venue="CVPR",
    year=2019,
    url="https://arxiv.org/abs/1901.07518",
    code="https://github.com/open-mmlab/mmdetection",
    code_licence="Apache-2.0",
)
TINY: dict[str, Any] = {
    "width": 16,
    "hidden": 32,
    "mask_width": 16,
    "proposals": [64, 32],
    "sampled": 32,
    "detections": 8,
}
HYBRID: dict[str, Any] = {"interleaved": True, "mask_flow": True, "semantic": True, "score": 0.001}
BOX, MASK = "COCO val box AP", "COCO val mask AP"


def card(
    paper: Paper, box: float | None, mask: float | None, classes: int = 80, parameters: float | None = None
) -> Card:
    """Of a detector of COCO's objects, with its published average precisions."""
    scores = {BOX: box, MASK: mask} if box is not None and mask is not None else {}
    return Card(paper=paper, num_classes=classes, parameters=parameters, scores=scores)


for _depth, _box, _mask in ((18, None, None), (34, None, None), (50, 43.3, 38.3), (101, 44.8, 39.6)):
    register_decoder(
        f"htc_resnet{_depth}", CascadeDecoder, card(PAPER, _box, _mask), tiny=TINY, backbone=f"resnet{_depth}", **HYBRID
    )
for _width, _box, _mask in ((32, 46.1, 40.5), (64, 47.0, 41.4)):
    _trunk = f"resnext101_{_width}x4d"
    register_decoder(f"htc_{_trunk}", CascadeDecoder, card(PAPER, _box, _mask), tiny=TINY, backbone=_trunk, **HYBRID)
