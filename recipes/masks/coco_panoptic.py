"""Mask2Former at COCO's panoptic segments, as its authors train it: 50 epochs of 16 pictures of 1024×1024.

    segmentarium train --recipe recipes/masks/coco_panoptic.py --root DIR/coco --backbone-weights timm:resnet50.tv_in1k

Expected (published, val): PQ 51.9 (ResNet-50), 53.2 (Swin-T).  The rate falls to a tenth after 0.889 and 0.963 of 368,750 steps:
three stages here, which begin with a new average of gradients each.  Pictures are scaled by 0.1 to 2 about 1024 pixels of their
longer side and padded (large scale jitter).  Cost: about 230e9 multiply-adds a picture of 800×1200 and forward pass, of 1024×1024
some 250e9, so 4.4e18 in all.
"""

from common import published

from segmentarium.training import TrainingOptions

STEPS = 368_750
FALLS = (0.889, 0.963)


def recipe() -> list[TrainingOptions]:
    first, second = (round(share * STEPS) for share in FALLS)
    options = published(
        "mask2former_resnet50",
        "coco_panoptic",
        task="panoptic",
        crop_size=(1024, 1024),
        long_side=1024,
        scale=(0.1, 2.0),
        photometric=False,
        schedule="constant",
        warmup_steps=10,
        val_every=5_000,
    )
    lengths = (first, second - first, STEPS - second)
    return [
        options.replace(max_steps=steps, learning_rate=options.learning_rate / 10**i) for i, steps in enumerate(lengths)
    ]
