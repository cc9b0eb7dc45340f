"""The shipped model person, further: `person.py`'s network on people of any size, and in bad light.

    python recipes/person_bodies_data.py --root DIR --out runs/person_everywhere_data --portraits 2 --scenes 3
    segmentarium train --recipe recipes/person_everywhere.py

Two stages: people eight times larger and smaller, grey, blurred and in bad light; then pictures nearly as they are in use.
`person_grown.py` is the same for a network with two more blocks, and `person_average.py` the mean of both with what came
before.  Cost and result: docs/results.md.
"""

from typing import Any

from person import NEAR, person

from segmentarium.training import TrainingOptions


def everywhere(steps: tuple[int, int], **changes: Any) -> list[TrainingOptions]:
    """Both stages, with so many steps."""
    wide = person(
        root="runs/person_everywhere_data",
        output="runs/person_everywhere",
        cache=False,
        compile=False,
        long_side=320,
        crop_size=(256, 256),
        scale=(0.5, 4.0),
        even_scales=True,
        rotate=15.0,
        degrade=0.1,
        class_mix=0.25,
        max_steps=steps[0],
        learning_rate=1.5e-3,
        backbone_lr_factor=0.5,
        warmup_steps=30,
        ema=0.998,
        val_every=steps[0] // 4,
        save_every=50,
        workers=1,
    ).replace(**changes)
    in_use = wide.replace(
        weights=None,
        crop_size=(320, 272),
        scale=(0.85, 1.6),
        rotate=8.0,
        degrade=0.05,
        class_mix=0.15,
        max_steps=steps[1],
        learning_rate=1.2e-3,
        warmup_steps=20,
        val_every=steps[1] // 4,
    )
    return [wide, in_use]


def recipe() -> list[TrainingOptions]:
    return everywhere((1400, 900), model_arguments=NEAR, weights="runs/person-7/last.safetensors")
