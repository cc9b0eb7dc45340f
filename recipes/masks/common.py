"""What the published recipes of this folder share: AdamW, the whole gradient clipped to 0.01, a tenth of the rate for a ResNet.

Nobody trained these here: the settings are the authors', and so are the scores that they should come to.  The batch is the
effective one: give --micro-batch for what a device holds.  A step costs three times the multiply-adds of a forward pass for each
crop.
"""

from typing import Any

from segmentarium.training import TrainingOptions


def published(model: str, data: str, **changes: Any) -> TrainingOptions:
    options = TrainingOptions(
        model=model,
        data=data,
        root=data,
        output=f"runs/{data}/{model}",
        optimizer="adamw",
        learning_rate=1e-4,
        backbone_lr_factor=0.1,
        weight_decay=0.05,
        clip_norm=0.01,
        batch_size=16,
        ema=0.0,
        save_every=2_000,
    )
    return options.replace(**changes)
