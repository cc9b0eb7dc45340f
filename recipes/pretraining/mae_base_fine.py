"""Fine-tuning of MAE's ViT-B on ImageNet as published: 100 passes in batches of 1024, layer decay 0.65, the mean of the patches.

    segmentarium train --recipe recipes/pretraining/mae_base_fine.py --root DIR/imagenet --backbone-weights runs/pretraining/mae

Expected: top-1 83.6 (83.66 of the published weights).  Cost: 125,000 steps, 3 × 17.6 G multiply-adds a picture: 7e18 in all.
"""

from imagenet import steps

from segmentarium.training import TrainingOptions


def recipe() -> TrainingOptions:
    """The rate is 5e-4 for 256 pictures.  With mixup, cutmix and erasing, of which the paper does not name the last."""
    return TrainingOptions(
        model="vit_base_patch16_224",
        model_arguments={"pool": "mean", "drop_path": 0.1},
        data="imagenet",
        root="imagenet",
        output="runs/pretraining/mae-fine",
        size=224,
        rand_augment=2,
        magnitude=9,
        mixup=0.8,
        cutmix=1.0,
        erase=0.25,
        label_smoothing=0.1,
        optimizer="adamw",
        learning_rate=5e-4 * 4,
        weight_decay=0.05,
        layer_decay=0.65,
        schedule="cosine",
        batch_size=1024,
        max_steps=steps(100, 1024),
        warmup_steps=steps(5, 1024),
        ema=0.0,
        val_every=steps(5, 1024),
        save_every=steps(1, 1024),
    )
