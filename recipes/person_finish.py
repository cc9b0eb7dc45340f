"""The shipped person model, second part: goes on from `person.py` with harder augmentation, on train + val.

    segmentarium train --recipe recipes/person_finish.py --root DIR/portrait

The last averaged weights are the result.  Cost: about 12 minutes on two cores with AMX bf16.  Expected:
92.7 mean IoU on EG1800 test (264 photographs), see docs/results.md.
"""

from segmentarium.training import TrainingOptions


def recipe() -> TrainingOptions:
    return TrainingOptions(
        model="deeplabv3plus",
        weights="runs/person/last.safetensors",
        data="portrait",
        root="../shared/data/portrait",
        train_split="trainval",
        output="runs/person_finish",
        cache=True,
        long_side=288,
        crop_size=(288, 224),
        scale=(0.6, 1.5),
        rotate=15.0,
        max_class_ratio=1.0,
        max_steps=1000,
        batch_size=32,
        optimizer="adamw",
        learning_rate=2e-3,
        backbone_lr_factor=1.0,
        weight_decay=0.05,
        warmup_steps=50,
        clip_norm=5.0,
        ema=0.998,
        loss="cross_entropy+0.5*dice",
        val_every=500,
        save_every=100,
    )
