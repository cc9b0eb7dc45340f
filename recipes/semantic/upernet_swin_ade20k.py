"""UPerNet on Swin-T at ADE20K, as Swin's authors train it: AdamW at 6e-5, batch 16, 160,000 steps of 512×512, drop path 0.3.

    segmentarium train --recipe recipes/semantic/upernet_swin_ade20k.py --root DIR/ADE20K --backbone-weights timm:NAME

Expected (published, val mIoU, one scale): upernet_swin_tiny 44.4, upernet_swin_base from ImageNet-22k 50.1.
"""

from common import transformer

from segmentarium.training import TrainingOptions


def recipe() -> TrainingOptions:
    return transformer("upernet_swin_tiny", "ade20k")
