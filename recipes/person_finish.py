"""The shipped person model, second part: goes on from `person.py` at the size that the model is used at.

    segmentarium train --recipe recipes/person_finish.py --root DIR/portrait

The last averaged weights are the result.  Cost and result: docs/results.md.
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
        # used at 320: on val (seen in training) better than 288 by 0.8; crops are of 0.7 to 1.4 of pictures of 288 pixels
        long_side=320,
        crop_size=(288, 224),
        scale=(0.63, 1.26),
        rotate=10.0,
        class_mix=0.3,
        max_class_ratio=1.0,
        max_steps=1200,
        batch_size=32,
        optimizer="adamw",
        learning_rate=1e-3,
        backbone_lr_factor=1.0,
        weight_decay=0.05,
        warmup_steps=50,
        clip_norm=5.0,
        ema=0.998,
        loss="cross_entropy+0.5*dice",
        val_every=600,
        save_every=100,
    )
