"""Decoders on ResNet-50 at COCO-Stuff's 171 classes, as mmsegmentation trains them: 512×512, batch 16, 160,000 or 320,000 steps.

    segmentarium train --recipe recipes/semantic/coco_stuff.py --root DIR/coco_stuff --model NAME

Expected (published, 164k pictures, mIoU on val, one scale): deeplabv3_resnet50 41.09 (320,000 steps: 41.37), deeplabv3_resnet101
41.82 (42.61).
"""

from common import convolutional

from segmentarium.training import TrainingOptions


def recipe() -> TrainingOptions:
    return convolutional("deeplabv3_resnet50", "coco_stuff")
