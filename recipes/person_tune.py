"""The shipped person model, third part: goes on from `person_finish.py` with nearer dilations, on crops without padding.

    segmentarium train --recipe recipes/person_tune.py

At 1/16 the map of a picture is 20×15 cells: dilations of 12 and 18 mostly see padding there, and their statistics change with
the size of the map and with padded crops.  With 2, 4 and 8, and pictures that fill their crops, training and use agree, at
other sizes and shapes too.  The last averaged weights are the result.  Cost and result: docs/results.md.
"""

from person import person

from segmentarium.training import TrainingOptions


def recipe() -> TrainingOptions:
    return person(
        model_arguments={"rates": (2, 4, 8)},
        weights="runs/person_finish/last.safetensors",
        output="runs/person_tune",
        long_side=320,
        crop_size=(288, 240),
        scale=(1.0, 1.5),
        rotate=10.0,
        class_mix=0.3,
        max_steps=650,
        learning_rate=1.5e-3,
        backbone_lr_factor=0.25,
        warmup_steps=30,
        ema=0.99,
        val_every=650,
        save_every=100,
    )
