"""SegNeXt-T at ADE20K, as its authors train it: MSCAN from ImageNet, the decoder at ten times its rate.

    segmentarium train --recipe recipes/semantic/segnext_ade20k.py --root DIR/ADEChallengeData2016 --backbone-weights FILE

Expected (published, val mIoU, one scale): segnext_t 41.1, segnext_s 44.3, segnext_b 48.5, segnext_l 51.0.
"""

from common import transformer

from segmentarium.training import TrainingOptions


def recipe() -> TrainingOptions:
    return transformer("segnext_t", "ade20k", learning_rate=6e-4, backbone_lr_factor=0.1)
