"""The shipped person model, fourth part: goes on from `person_tune.py`, three times as long and with closer crops.

    segmentarium train --recipe recipes/person_long.py

After the third part the training photographs themselves were at 96.1 mean IoU: there was more to learn from them.
`person_last.py` goes on.
"""

from segmentarium.training import TrainingOptions


def recipe() -> TrainingOptions:
    return TrainingOptions(
        model="deeplabv3plus",
        model_arguments={"rates": (2, 4, 8)},
        weights="runs/person_tune/last.safetensors",
        data="folder",
        root="runs/person_data",
        output="runs/person_long",
        cache=True,
        long_side=320,
        crop_size=(288, 240),
        scale=(1.0, 1.7),
        rotate=15.0,
        class_mix=0.3,
        max_class_ratio=1.0,
        max_steps=2000,
        batch_size=24,
        optimizer="adamw",
        learning_rate=1.5e-3,
        backbone_lr_factor=0.5,
        weight_decay=0.05,
        warmup_steps=50,
        clip_norm=5.0,
        ema=0.997,
        compile=True,
        loss="cross_entropy+0.5*dice",
        val_every=500,
        save_every=100,
    )
