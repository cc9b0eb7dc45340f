"""Decoders on ResNet-101 at Pascal-Context's 59 classes, as mmsegmentation trains them: 480×480, batch 16, 80,000 steps.

    segmentarium train --recipe recipes/semantic/pascal_context.py --root DIR/VOC2010 --model NAME

Expected (published, val mIoU, one scale): pspnet_resnet101 52.47, fcn_resnet101 49.35, deeplabv3_resnet101 52.46,
deeplabv3plus_resnet101 53.20.  With the background as a class, `--data pascal_context`: 46.03, 44.13, 46.42, 47.23.
"""

from common import convolutional

from segmentarium.training import TrainingOptions


def recipe() -> TrainingOptions:
    return convolutional(
        "pspnet_resnet101",
        "pascal_context59",
        crop_size=(480, 480),
        learning_rate=0.004,
        weight_decay=1e-4,
        max_steps=80_000,
        val_every=8_000,
    )
