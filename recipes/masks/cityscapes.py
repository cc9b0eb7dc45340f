"""Mask2Former at Cityscapes' three tasks, as its authors train it: 90,000 steps of 16 crops of 512×1024, a model for each.

    segmentarium train --recipe recipes/masks/cityscapes.py --root DIR/cityscapes --backbone-weights timm:resnet50.tv_in1k
    segmentarium train --recipe recipes/masks/cityscapes.py --data cityscapes_instances --task instance …

Expected (published, val, ResNet-50): PQ 62.1 of the panoptic model; AP 37.4 of the instance model; mIoU 79.4 of the semantic one
(--data cityscapes --task semantic).  Cost: about 142e9 multiply-adds a crop and forward pass, so 6e17 for each.
"""

from common import published

from segmentarium.training import TrainingOptions


def recipe() -> TrainingOptions:
    return published(
        "mask2former_resnet50",
        "cityscapes_panoptic",
        task="panoptic",
        crop_size=(512, 1024),
        max_steps=90_000,
        val_every=5_000,
    )
