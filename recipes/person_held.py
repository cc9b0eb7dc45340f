"""The shipped person model, sixth and last part: goes on from `person_last.py` with things that people hold.

    python recipes/person_held_data.py
    segmentarium train --recipe recipes/person_held.py

The last averaged weights are the result.  Cost and result: docs/results.md.
"""

from person import person

from segmentarium.training import TrainingOptions


def recipe() -> TrainingOptions:
    return person(
        model_arguments={"rates": (2, 4, 8)},
        weights="runs/person_last/last.safetensors",
        root="runs/person_held_data",
        output="runs/person_held",
        long_side=320,
        crop_size=(320, 240),
        scale=(1.0, 1.3),
        rotate=8.0,
        class_mix=0.15,
        max_steps=700,
        batch_size=16,
        learning_rate=6e-4,
        backbone_lr_factor=0.5,
        warmup_steps=30,
        ema=0.993,
        val_every=700,
        save_every=50,
    )
