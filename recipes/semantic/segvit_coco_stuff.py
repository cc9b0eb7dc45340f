"""SegViT-L at COCO-Stuff, as its authors train it: 512×512, 80,000 steps, decay 0.02, falling as a square.

    segmentarium train --recipe recipes/semantic/segvit_coco_stuff.py --root DIR/coco_stuff --backbone-weights timm:NAME

Expected (published, COCO-Stuff-10k, mIoU, one scale): L shrunk 49.1, L 49.9.
"""

from common import transformer

from segmentarium.training import TrainingOptions


def recipe() -> TrainingOptions:
    return transformer(
        "segvit_vit_large",
        "coco_stuff",
        learning_rate=2e-4,
        backbone_lr_factor=0.1,
        weight_decay=0.02,
        power=2.0,
        clip_norm=35.0,
        max_steps=80_000,
        val_every=8_000,
    )
