"""The shipped person model, second part: goes on from `person.py` at the size that the model is used at.

    segmentarium train --recipe recipes/person_finish.py

`person_tune.py` goes on.
"""

from segmentarium.training import TrainingOptions


def recipe() -> TrainingOptions:
    return TrainingOptions(
        model="deeplabv3plus",
        weights="runs/person/last.safetensors",
        data="folder",
        root="runs/person_data",
        output="runs/person_finish",
        cache=True,
        long_side=320,
        crop_size=(288, 224),
        scale=(0.65, 1.4),
        rotate=15.0,
        class_mix=0.4,
        max_class_ratio=1.0,
        max_steps=800,
        batch_size=24,
        optimizer="adamw",
        learning_rate=8e-4,
        backbone_lr_factor=0.5,
        weight_decay=0.05,
        warmup_steps=50,
        clip_norm=5.0,
        ema=0.998,
        compile=True,
        loss="cross_entropy+0.5*dice",
        val_every=400,
        save_every=200,
    )
