"""The hybrid task cascade as the winners of LVIS 2020 use it: for 1,203 classes, with thin masks seen fine and learned balanced.

What is new in it stands in `good_mask.py`, its classifiers in `class_scores.py`; recipes/instances/good_mask.py trains it in the
paper's two stages.

Published: LVIS v1 val mask AP 41.5 (ResNeXt-101 and more than this network), test-dev 41.2.
"""

from __future__ import annotations

from segmentarium.composition import register_decoder
from segmentarium.instances.cascade import CascadeDecoder
from segmentarium.instances.htc import HYBRID, TINY
from segmentarium.registry import Card, Paper

PAPER = Paper(
    title="1st Place Solution of LVIS Challenge 2020: A Good Box is not a Guarantee of a Good Mask",
    authors="Tan, Zhang, Deng, Wang, Lu, Li, Dai",
    venue="LVIS challenge, ECCV workshops",
    year=2020,
    url="https://arxiv.org/abs/2009.01559",
)
for _depth in (18, 50, 101):
    register_decoder(
        f"good_mask_resnet{_depth}",
        CascadeDecoder,
        Card(paper=PAPER, num_classes=1203),
        tiny=TINY,
        backbone=f"resnet{_depth}",
        **HYBRID,
        detections=300,
        mask_levels="share",
        mask_loss="balanced",
    )
