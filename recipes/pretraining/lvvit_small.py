"""LV-ViT-S by token labeling as published (2104.10858): 300 passes in batches of 1024, every patch with a label of its own.

    python recipes/pretraining/label_maps.py --annotator timm:dm_nfnet_f6 --size 576 --root DIR/imagenet --out runs/label_maps
    segmentarium train --recipe recipes/pretraining/lvvit_small.py --root DIR/imagenet --token-labels runs/label_maps

Expected: ImageNet top-1 83.3.  Cost: 375,000 steps, 3 × 6.6 G multiply-adds a picture: 8e18 in all; and a pass of the annotator
over every picture, once.
"""

from imagenet import steps

from segmentarium.training import TrainingOptions


def recipe() -> TrainingOptions:
    """Without mixup and cutmix: MixToken mixes patches behind the embedding.  The rate is 1.6e-3 for the whole batch."""
    return TrainingOptions(
        model="lvvit_s",
        data="imagenet",
        root="imagenet",
        output="runs/pretraining/lvvit_s",
        size=224,
        rand_augment=2,
        magnitude=9,
        erase=0.25,
        label_smoothing=0.1,
        optimizer="adamw",
        learning_rate=1.6e-3,
        weight_decay=0.05,
        schedule="cosine",
        batch_size=1024,
        max_steps=steps(300, 1024),
        warmup_steps=steps(5, 1024),
        ema=0.99992,
        val_every=steps(10, 1024),
        save_every=steps(1, 1024),
    )
