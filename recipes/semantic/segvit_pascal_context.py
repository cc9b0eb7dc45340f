"""SegViT-L at Pascal-Context's 59 classes, as its authors train it: 480×480, 80,000 steps, decay 0.03.

    segmentarium train --recipe recipes/semantic/segvit_pascal_context.py --root DIR/VOC2010 --backbone-weights timm:NAME

Expected (published, mIoU, one scale): L shrunk 62.3, L 64.1.  Evaluate in windows of the crop's size, step 320.
"""

from common import transformer

from segmentarium.training import TrainingOptions


def recipe() -> TrainingOptions:
    return transformer(
        "segvit_vit_large",
        "pascal_context59",
        crop_size=(480, 480),
        learning_rate=2e-4,
        backbone_lr_factor=0.1,
        weight_decay=0.03,
        clip_norm=35.0,
        max_steps=80_000,
        val_every=8_000,
    )
