"""The shipped model person, sixth part: people anywhere, from person_bodies' weights.

    python recipes/person_bodies_data.py --root DIR --out runs/person_everywhere_data --portraits 2 --scenes 3
    segmentarium train --recipe recipes/person_everywhere.py

The first stage shows people eight times larger and smaller, grey, blurred and in bad light; the second, pictures nearly as they
are in use.  The last averaged weights are the result.  Cost and result: docs/results.md.
"""

from person import person

from segmentarium.training import TrainingOptions


def recipe() -> list[TrainingOptions]:
    wide = person(
        root="runs/person_everywhere_data",
        cache=False,
        compile=False,
        model_arguments={"rates": (2, 4, 8)},
        weights="person_bodies",
        output="runs/person_everywhere",
        long_side=320,
        crop_size=(256, 256),
        scale=(0.5, 4.0),
        even_scales=True,
        rotate=15.0,
        degrade=0.1,
        class_mix=0.25,
        max_steps=1400,
        learning_rate=1.5e-3,
        backbone_lr_factor=0.5,
        warmup_steps=30,
        ema=0.998,
        val_every=350,
        save_every=50,
        workers=1,
    )
    in_use = wide.replace(
        weights=None,
        crop_size=(320, 272),
        scale=(0.85, 1.6),
        rotate=8.0,
        degrade=0.05,
        class_mix=0.15,
        max_steps=900,
        learning_rate=1.2e-3,
        warmup_steps=20,
        val_every=300,
    )
    return [wide, in_use]
