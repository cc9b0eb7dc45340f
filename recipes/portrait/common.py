"""What the recipes of this folder share: one budget on EG1800 for every portrait network, from scratch.

    segmentarium compare --recipes recipes/portrait --root DIR/portrait --out runs/portrait
    segmentarium compare --recipes recipes/portrait --root DIR/portrait --out runs/portrait-10m --budget 10m

The first trains all five for the whole budget (20,000 steps of 32 pictures: 500 epochs; for a GPU), the second the same with
ten minutes for each; both score them on test and time them on the processor, and go on where they were stopped.

First photographs of 96×128 pixels, which cost a quarter, then of 192×256, about as many as the 224×224 of the papers with their
3:4 kept; train + val (1,281).  Scale, rotation and light vary; into some of the pictures the person, or the background, of
another is laid.
"""

from typing import Any

from segmentarium.training import TrainingOptions

SMALL_SHARE = 0.5  # of the steps, on small photographs


def portrait(model: str, *, steps: int = 20_000, **changes: Any) -> list[TrainingOptions]:
    """The shared budget for one network, in two stages; `changes` are what its paper, or its size, wants otherwise."""
    small = TrainingOptions(
        model=model,
        data="eg1800",
        root="../shared/data/portrait",
        train_split="trainval",
        output=f"runs/portrait/{model}-small",
        cache=True,
        long_side=128,
        crop_size=(128, 96),
        scale=(0.8, 1.5),
        rotate=20.0,
        class_mix=0.4,
        max_class_ratio=1.0,
        max_steps=round(SMALL_SHARE * steps),
        batch_size=32,
        optimizer="adamw",
        learning_rate=2e-3,
        backbone_lr_factor=1.0,
        weight_decay=0.02,
        warmup_steps=300,
        clip_norm=5.0,
        ema=0.999,
        val_every=5000,
        save_every=250,
    ).replace(**changes)
    whole = small.replace(
        output=f"runs/portrait/{model}",
        weights=None,  # those of the first stage
        long_side=256,
        crop_size=(256, 192),
        scale=(1.0, 1.5),  # no padding: what the batch norms keep is of whole pictures
        rotate=10.0,
        class_mix=0.2,
        max_steps=steps - small.max_steps,
        learning_rate=small.learning_rate / 2,
    )
    return [small, whole]
