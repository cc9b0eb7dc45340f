"""The shipped person model, fifth and last part: goes on from `person_long.py` with pictures nearly as they are in use.

    segmentarium train --recipe recipes/person_last.py

Whole pictures, or little less, and half of the other augmentation.  The last averaged weights are the result.  Cost and result:
docs/results.md.
"""

from person import person

from segmentarium.training import TrainingOptions


def recipe() -> TrainingOptions:
    return person(
        model_arguments={"rates": (2, 4, 8)},
        weights="runs/person_long/last.safetensors",
        output="runs/person_last",
        long_side=320,
        crop_size=(320, 240),
        scale=(1.0, 1.3),
        rotate=8.0,
        class_mix=0.15,
        max_steps=1000,
        learning_rate=8e-4,
        backbone_lr_factor=0.5,
        warmup_steps=30,
        ema=0.995,
        val_every=500,
        save_every=100,
    )
