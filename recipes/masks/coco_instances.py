"""Mask2Former at COCO's objects, as its authors train it: 50 epochs of 16 pictures of 1024×1024.

    segmentarium train --recipe recipes/masks/coco_instances.py --root DIR/coco --backbone-weights timm:resnet50.tv_in1k

Expected (published, val): AP 43.7 (ResNet-50), 45.0 (Swin-T).  Cost: as of the panoptic recipe beside it, 4.4e18 multiply-adds.
"""

from common import coco

from segmentarium.training import TrainingOptions


def recipe() -> list[TrainingOptions]:
    return coco("coco_instances", "instance")
