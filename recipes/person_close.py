"""The shipped model person, near its end: 900 quiet steps on portraits for the most part, 500 of them with cloth behind.

    python recipes/person_average.py second
    python recipes/person_cloth.py --data runs/person_grown_data --out runs/person_close_data
    segmentarium train --recipe recipes/person_close.py
    python recipes/person_average.py last

Cost and result: docs/results.md.
"""

from person_everywhere import everywhere

from segmentarium.training import TrainingOptions


def recipe() -> TrainingOptions:
    return everywhere((600, 900), root="runs/person_close_data", teacher="person_large")[1].replace(
        weights="runs/person_second.safetensors",
        output="runs/person_close",
        learning_rate=4e-4,
        scale=(0.9, 1.35),
        degrade=0.03,
        class_mix=0.1,
        ema=0.997,
        val_every=300,
    )
