"""The shipped person model, fifth and last part: goes on from `person_long.py` with pictures nearly as they are in use.

    segmentarium train --recipe recipes/person_last.py

Whole pictures, or little less, and half of the other augmentation.  The last averaged weights are the result.  Cost and result:
docs/results.md.
"""

from segmentarium.training import TrainingOptions


def recipe() -> TrainingOptions:
    return TrainingOptions(
        model="deeplabv3plus",
        model_arguments={"rates": (2, 4, 8)},
        weights="runs/person_long/last.safetensors",
        data="folder",
        root="runs/person_data",
        output="runs/person_last",
        cache=True,
        long_side=320,
        crop_size=(320, 240),
        scale=(1.0, 1.3),
        rotate=8.0,
        class_mix=0.15,
        max_class_ratio=1.0,
        max_steps=1000,
        batch_size=24,
        optimizer="adamw",
        learning_rate=8e-4,
        backbone_lr_factor=0.5,
        weight_decay=0.05,
        warmup_steps=30,
        clip_norm=5.0,
        ema=0.995,
        compile=True,
        loss="cross_entropy+0.5*dice",
        val_every=500,
        save_every=100,
    )
