"""The shipped model person, further: 1,600 steps from the first mean of `person_average.py`.

    python recipes/person_average.py first
    segmentarium train --recipe recipes/person_further.py

Cost and result: docs/results.md.
"""

from person_everywhere import everywhere

from segmentarium.training import TrainingOptions


def recipe() -> TrainingOptions:
    return everywhere((600, 1600), root="runs/person_grown_data", teacher="person_large")[1].replace(
        weights="runs/person_first.safetensors",
        output="runs/person_further",
        learning_rate=9e-4,
        scale=(0.9, 1.5),
        degrade=0.04,
        val_every=400,
    )
