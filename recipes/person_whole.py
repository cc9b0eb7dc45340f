"""The shipped model person_bodies, second and last part: goes on from `person_bodies.py`, on pictures nearly as they are in use.

    python recipes/person_bodies_data.py --root DIR --out runs/person_whole_data --portraits 2
    segmentarium train --recipe recipes/person_whole.py

The part before won whole bodies at the price of some of the portraits; here these come twice as often, and the crops are nearly
whole pictures.  The last averaged weights are the result.  Cost and result: docs/results.md.
"""

from person import person

from segmentarium.training import TrainingOptions


def recipe() -> TrainingOptions:
    return person(
        root="runs/person_whole_data",
        cache=False,
        compile=False,
        model_arguments={"rates": (2, 4, 8)},
        weights="runs/person_bodies/last.safetensors",
        output="runs/person_whole",
        long_side=320,
        crop_size=(320, 256),
        scale=(1.0, 1.5),
        rotate=8.0,
        class_mix=0.15,
        max_steps=680,
        learning_rate=1.0e-3,
        backbone_lr_factor=0.4,
        warmup_steps=20,
        ema=0.995,
        val_every=170,
        save_every=50,
    )
