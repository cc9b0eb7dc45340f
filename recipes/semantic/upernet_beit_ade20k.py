"""UPerNet on BEiT-B at ADE20K, as mmsegmentation trains it: AdamW at 3e-5, decay 0.05, 0.9 of the rate from layer to layer, batch
16, 160,000 steps of 640×640.

    segmentarium train --recipe recipes/semantic/upernet_beit_ade20k.py --root DIR/ADE20K --backbone-weights timm:NAME

Expected (published, val mIoU, one scale, from ImageNet-22k): upernet_beit_base 53.08.  Evaluate in windows of the crop's size.
"""

from common import transformer

from segmentarium.training import TrainingOptions


def recipe() -> TrainingOptions:
    return transformer(
        "upernet_beit_base",
        "ade20k",
        crop_size=(640, 640),
        learning_rate=3e-5,
        weight_decay=0.05,
        layer_decay=0.9,
    )
