"""Cascade Mask R-CNN: three stages, each of which learns from boxes that overlap their object better than the one before.

A detector learned at a loose overlap gives many boxes that are nearly right; one learned at a tight overlap has too few to learn
from.  So each stage moves the boxes of the one before, which makes enough good ones for the next.  A mask head stands at each.
It is the network of `cascade.py` without its three new things.

What the public code does and the paper does not say (mmdetection): boxes of all classes share their deltas; scores of all stages
are averaged before the softmax, masks as probabilities.
What we change: see `htc.py`.

Published: COCO val box / mask AP 41.2 / 35.9 (ResNet-50, 12 epochs), 42.9 / 37.3 (ResNet-101), of mmdetection.

Recipe: SGD 0.02 for 16 pictures, momentum 0.9, decay 1e-4, 1333×800, flips, 12 epochs, rate ×0.1 after 8 and 11.
"""

from __future__ import annotations

from segmentarium.composition import register_decoder
from segmentarium.instances.cascade import CascadeDecoder
from segmentarium.instances.htc import TINY, card
from segmentarium.registry import Paper

PAPER = Paper(
    title="Cascade R-CNN: High Quality Object Detection and Instance Segmentation",
    authors="Cai, Vasconcelos",
    venue="TPAMI",
    year=2019,
    url="https://arxiv.org/abs/1906.09756",
    code="https://github.com/zhaoweicai/Detectron-Cascade-RCNN",
    code_licence="Apache-2.0",
)
for _depth, _box, _mask in ((18, None, None), (50, 41.2, 35.9), (101, 42.9, 37.3)):
    register_decoder(
        f"cascade_mask_rcnn_resnet{_depth}",
        CascadeDecoder,
        card(PAPER, _box, _mask),
        tiny=TINY,
        backbone=f"resnet{_depth}",
    )
