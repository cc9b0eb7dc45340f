"""EANet on ResNet-101 at VOC 2012, as its authors train it: SGD at 0.009, decay 1e-4, batch 16, 45,000 steps of 513×513.

    segmentarium train --recipe recipes/semantic/eanet_voc.py --root DIR/VOC2012 --backbone-weights timm:NAME

The authors' biases learn at twice the rate and scales are tenths of 0.5 to 2; here neither is so.  They publish weights, and a
score on the test server alone.
"""

from common import convolutional

from segmentarium.training import TrainingOptions


def recipe() -> TrainingOptions:
    return convolutional(
        "eanet",
        "voc",
        train_split="trainaug",
        crop_size=(513, 513),
        learning_rate=9e-3,
        weight_decay=1e-4,
        decay_norm_bias=False,
        max_steps=45_000,
        val_every=5_000,
    )
