"""The shipped model person_bodies, first part: whole bodies, groups and pictures of nobody, from `person`'s weights.

    python recipes/person_bodies_data.py --root DIR --out runs/person_bodies_data
    segmentarium train --recipe recipes/person_bodies.py

The five parts before know head and shoulders; of the skater and the skier they lose most.  Crops of 256 pixels of pictures of up
to 640, so that people are seen from close and from far.  Cost and result: docs/results.md.
"""

from person import person

from segmentarium.training import TrainingOptions


def recipe() -> TrainingOptions:
    return person(
        root="runs/person_bodies_data",
        cache=False,
        compile=False,
        model_arguments={"rates": (2, 4, 8)},
        weights="person",
        output="runs/person_bodies",
        long_side=320,
        crop_size=(256, 256),
        scale=(0.9, 2.0),
        rotate=12.0,
        class_mix=0.3,
        max_steps=1200,
        learning_rate=1.5e-3,
        backbone_lr_factor=0.4,
        warmup_steps=30,
        ema=0.996,
        val_every=200,
        save_every=50,
    )
