"""What the recipes of this folder share: one budget on CamVid, from scratch, for every real-time network.

    segmentarium compare --recipes recipes/camvid --root DIR/camvid --out runs/camvid
    segmentarium compare --recipes recipes/camvid --root DIR/camvid --out runs/camvid-10m --budget 10m

The first trains all sixteen for the whole budget (12,000 steps of 12 pictures: 308 epochs; for a GPU), scores them on test and
times them on the processor; stopped, it goes on where it was.  The second does the same with ten minutes for each.

480×360 pictures, train + val (468) as most published figures are, no pretraining, whole pictures as crops, AdamW.  Classes are
weighted by 1 / ln(1.1 + share), CGNet's milder form of ENet's formula: rare classes weigh 3.6 times road, not 15.
"""

from typing import Any

from segmentarium.training import TrainingOptions

CLASS_WEIGHT = "0.98,0.81,2.28,0.67,1.74,1.30,2.25,2.25,1.60,2.36,2.43"


def camvid(model: str, **changes: Any) -> TrainingOptions:
    """The shared budget for one network; `changes` are what its paper, or its size, wants otherwise."""
    options = TrainingOptions(
        model=model,
        data="camvid",
        root="../shared/data/camvid",
        train_split="trainval",
        output=f"runs/camvid/{model}",
        cache=True,
        crop_size=(360, 480),
        scale=(0.5, 2.0),
        max_steps=12_000,
        batch_size=12,
        optimizer="adamw",
        learning_rate=1e-3,
        backbone_lr_factor=1.0,
        weight_decay=0.01,
        warmup_steps=300,
        clip_norm=5.0,
        ema=0.999,
        class_weight=CLASS_WEIGHT,
        val_every=4000,
        save_every=250,
    )
    return options.replace(**changes)
