"""The shipped person model, second part: goes on from `person.py` at the size that the model is used at.

    segmentarium train --recipe recipes/person_finish.py

`person_tune.py` goes on.
"""

from person import person

from segmentarium.training import TrainingOptions


def recipe() -> TrainingOptions:
    return person(
        weights="runs/person/last.safetensors",
        output="runs/person_finish",
        long_side=320,
        crop_size=(288, 224),
        scale=(0.65, 1.4),
        rotate=15.0,
        class_mix=0.4,
        max_steps=800,
        learning_rate=8e-4,
        backbone_lr_factor=0.5,
        warmup_steps=50,
        ema=0.998,
        val_every=400,
        save_every=200,
    )
