"""Decoders on ResNet-50 at ADE20K's 150 classes, as mmsegmentation trains them: 512×512, batch 16, 160,000 steps.

    segmentarium train --recipe recipes/semantic/ade20k.py --root DIR/ADEChallengeData2016 --model NAME

Expected (published, val mIoU, one scale): fcn_resnet50 36.10, pspnet_resnet50 42.48, deeplabv3 42.66, deeplabv3plus_resnet50
43.95, psanet_resnet50 41.67, nonlocal 42.03, encnet_resnet50 40.10, danet_resnet50 42.45, ccnet_resnet50 42.08, ann 41.74,
gcnet 42.37, dnlnet 41.87, pointrend_resnet50 37.64, fpn_resnet50 37.49.
"""

from common import convolutional

from segmentarium.training import TrainingOptions


def recipe() -> TrainingOptions:
    return convolutional("pspnet_resnet50", "ade20k")
