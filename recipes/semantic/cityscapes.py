"""Decoders on ResNet-50 at Cityscapes' 19 classes, as mmsegmentation trains them: 512×1024, batch 8, 80,000 steps.

    segmentarium train --recipe recipes/semantic/cityscapes.py --root DIR/cityscapes --model NAME

Expected (published, val mIoU, one scale): pspnet_resnet50 78.55, deeplabv3 79.32, deeplabv3plus_resnet50 80.09, psanet_resnet50
77.24 (769×769), nonlocal 78.01, encnet_resnet50 77.94, danet_resnet50 79.34, ccnet_resnet50 79.03, ann 77.34, gcnet 78.48, dnlnet
79.33, pointrend_resnet50 76.47, upernet_resnet50 78.19.
"""

from common import convolutional

from segmentarium.training import TrainingOptions


def recipe() -> TrainingOptions:
    return convolutional(
        "pspnet_resnet50", "cityscapes", crop_size=(512, 1024), batch_size=8, max_steps=80_000, val_every=8_000
    )
