"""SuperPoint from nothing, on drawn shapes and free photographs: superpoint_small, whose weights anybody may use.

    python recipes/superpoint_data.py --root DIR --out runs/superpoint_data
    segmentarium train --recipe recipes/superpoint.py

Stages, each from the last averaged weights of the one before:

    1     MagicPoint: the detector on shapes, drawn on the fly
    2, …  it labels the photographs by homographic adaptation, then both heads learn on pairs of a crop and its warp; as often as
          ROUNDS says: labels of each round are surer than those of the one before

As published, but for what one core affords: a narrower encoder with batch norm, fewer steps of larger batches, a rate that falls;
and the pictures, of which there are few, are labelled at 640 pixels and cut to 160×224.  `--resume` goes on where it was
stopped, in adaptation as well.  Cost and result of each: docs/results.md.
"""

from typing import Any

from segmentarium.training import TrainingOptions

PICTURES = "runs/superpoint_data"
STEPS = 8000  # of the first stage
ROUNDS: tuple[dict[str, Any], ...] = (
    {"max_steps": 4000},
    {"max_steps": 6000},
    # the published 90 degrees are more than so few channels tell
    {"max_steps": 3600, "turn": 45.0, "learning_rate": 6e-4},
)
LICENCE = "CC BY 2.0, CC0 and public domain (see recipes/superpoint_data.py); shapes: drawn"
ADAPT: dict[str, Any] = {"homographies": 100, "long_side": 640, "most": 2000, "threshold": 0.008}


def superpoint(**changes: Any) -> TrainingOptions:
    """What all stages share."""
    options = TrainingOptions(
        model="superpoint_small",
        output="runs/superpoint",
        input_size=(120, 160),
        optimizer="adamw",
        weight_decay=1e-4,
        schedule="cosine",
        warmup_steps=200,
        clip_norm=5.0,
        ema=0.999,
        save_every=200,
        log_every=100,
        workers=1,
    )
    return options.replace(**changes)


def recipe() -> list[TrainingOptions]:
    shapes = superpoint(data="shapes", batch_size=32, max_steps=STEPS, learning_rate=2e-3, val_every=1000)
    joint = superpoint(
        data="points",
        root=PICTURES,
        data_arguments={"licence": LICENCE},
        cache=True,
        adapt=ADAPT,
        input_size=(160, 224),
        batch_size=8,
        learning_rate=1e-3,
        val_every=500,
    )
    return [shapes, *(joint.replace(**changes) for changes in ROUNDS)]
