"""What the published pretrainings share: ImageNet-1k's pictures without their labels, steps counted in passes, rates by batch.

    segmentarium pretrain --recipe recipes/pretraining/mae_base.py --data DIR/imagenet/train
    segmentarium pretrain --recipe recipes/pretraining/beit_base.py --data DIR/imagenet/train --tokenizer encoder.pkl

Nobody ran these here: the settings are the authors', and so are the scores that they should come to after fine-tuning.  The batch
is the effective one: give --micro-batch for what a device holds.  A folder of train alone is divided by a hash of its names: a
tenth is shown at evaluations, and another kept (--train-split all takes every picture).
"""

from typing import Any

from segmentarium.training import TrainingOptions

PICTURES = 1_281_167


def steps(passes: float, batch_size: int) -> int:
    """Optimiser steps of so many passes over ImageNet-1k."""
    return round(passes * PICTURES / batch_size)


def pretraining(model: str, *, passes: int, warmup: int, batch_size: int, **changes: Any) -> TrainingOptions:
    """AdamW at a decay of 0.05, falling along a cosine (to 0; the authors of BEiT stop at 1e-5), at 224 pixels."""
    options = TrainingOptions(
        model=model,
        data="pictures",
        root="imagenet/train",
        data_arguments={"look": False},
        train_split="all",
        output=f"runs/pretraining/{model}",
        size=224,
        optimizer="adamw",
        schedule="cosine",
        weight_decay=0.05,
        batch_size=batch_size,
        max_steps=steps(passes, batch_size),
        warmup_steps=steps(warmup, batch_size),
        ema=0.0,
        val_every=steps(20, batch_size),
        save_every=steps(1, batch_size),
    )
    return options.replace(**changes)
