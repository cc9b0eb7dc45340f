"""Mask2Former at COCO's panoptic segments, as its authors train it: 50 epochs of 16 pictures of 1024×1024.

    segmentarium train --recipe recipes/masks/coco_panoptic.py --root DIR/coco --backbone-weights timm:resnet50.tv_in1k

Expected (published, val): PQ 51.9 (ResNet-50), 53.2 (Swin-T).  Cost: about 230e9 multiply-adds a picture of 800×1200 and forward
pass, of 1024×1024 some 250e9, so 4.4e18 in all.
"""

from common import coco

from segmentarium.training import TrainingOptions


def recipe() -> list[TrainingOptions]:
    return coco("coco_panoptic", "panoptic")
