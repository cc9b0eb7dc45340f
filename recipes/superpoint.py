"""SuperPoint from nothing, on drawn shapes and free photographs: superpoint_small, whose weights anybody may use.

    python recipes/superpoint_data.py --root DIR --out runs/superpoint_data
    segmentarium train --recipe recipes/superpoint.py

Stages, each from the last averaged weights of the one before:

    1     MagicPoint: the detector on shapes, drawn on the fly
    2, …  it labels the photographs by homographic adaptation, then both heads learn on pairs of a crop and its warp; as often as
          ROUNDS says: labels of the second round are surer than those of the first

As published, but for what one core affords: narrower, fewer steps of larger batches, crops of 120×160 instead of 240×320 whole
pictures, batch norm, and a rate that falls.  `--resume` goes on where it was stopped, in adaptation as well.  Cost and result of
each: docs/results.md.
"""

from typing import Any

from segmentarium.training import TrainingOptions

PICTURES = "runs/superpoint_data"
ROUNDS = 2
ADAPT: dict[str, Any] = {"homographies": 100, "long_side": 640, "most": 2000}


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
    shapes = superpoint(data="shapes", batch_size=32, max_steps=8000, learning_rate=2e-3, val_every=1000)
    joint = superpoint(
        data="points",
        root=PICTURES,
        cache=True,
        adapt=ADAPT,
        batch_size=16,
        max_steps=6000,
        learning_rate=1e-3,
        val_every=1000,
    )
    return [shapes, *[joint] * ROUNDS]
