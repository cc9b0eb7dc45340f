"""SegViT at ADE20K, as its authors train it: ViT-B at 512×512 (L: 640×640, drop path 0.3), the decoder at ten times its rate.

    segmentarium train --recipe recipes/semantic/segvit_ade20k.py --root DIR/ADEChallengeData2016 --backbone-weights timm:NAME

Expected (published, val mIoU, one scale): B 51.3, L shrunk 53.9, L 54.6.  Evaluate in windows of the crop's size.
"""

from common import transformer

from segmentarium.training import TrainingOptions


def recipe() -> TrainingOptions:
    return transformer(
        "segvit_vit_base",
        "ade20k",
        learning_rate=2e-4,
        backbone_lr_factor=0.1,
        clip_norm=35.0,
    )
