"""Segmenter at ADE20K, as its authors train it: SGD at 1e-3 without decay, batch 8, 160,000 steps, drop path 0.1.

    segmentarium train --recipe recipes/semantic/segmenter_ade20k.py --root DIR/ADEChallengeData2016 --backbone-weights timm:NAME

Expected (published, val mIoU, one scale): tiny 38.1, small 45.3, base 48.5, large 51.8 (640×640), in windows of the crop's size.
"""

from common import convolutional

from segmentarium.training import TrainingOptions


def recipe() -> TrainingOptions:
    return convolutional(
        "segmenter_small",
        "ade20k",
        batch_size=8,
        learning_rate=1e-3,
        weight_decay=0.0,
    )
