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


STEPS = 368_750  # 50 epochs of COCO's 118,000 pictures
FALLS = (0.889, 0.963)


def coco(data: str, task: str) -> list[TrainingOptions]:
    """Mask2Former on ResNet-50: 16 pictures a step, scaled by 0.1 to 2 about 1024 pixels of their longer side and padded (large
    scale jitter).  The rate falls to a tenth after 0.889 and 0.963 of the steps: three stages here, each of which begins with a
    new average of gradients."""
    first, second = (round(share * STEPS) for share in FALLS)
    options = published(
        "mask2former_resnet50",
        data,
        task=task,
        crop_size=(1024, 1024),
        long_side=1024,
        scale=(0.1, 2.0),
        photometric=False,
        schedule="constant",
        warmup_steps=10,
        val_every=5_000,
    )
    lengths = (first, second - first, STEPS - second)
    return [
        options.replace(max_steps=steps, learning_rate=options.learning_rate / 10**i) for i, steps in enumerate(lengths)
    ]
