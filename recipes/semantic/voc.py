"""Decoders on ResNet-50 at VOC 2012's 21 classes with the extra labels, as mmsegmentation trains them: 512×512, batch 16, 40,000
steps.

    segmentarium train --recipe recipes/semantic/voc.py --root DIR/VOC2012 --model NAME

Expected (published, val mIoU, one scale): nonlocal 76.65, psanet_resnet50 76.30.
"""

from common import convolutional

from segmentarium.training import TrainingOptions


def recipe() -> TrainingOptions:
    return convolutional("psanet_resnet50", "voc", train_split="trainaug", max_steps=40_000, val_every=4_000)
