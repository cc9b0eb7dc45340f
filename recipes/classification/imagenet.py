"""What the ImageNet recipes of this folder share: ILSVRC 2012 in folders of synsets, its steps, its two protocols.

    segmentarium train --recipe recipes/classification/resnet.py --root DIR/imagenet
    segmentarium evaluate --model runs/imagenet/resnet18/best.safetensors --data imagenet --root DIR/imagenet

Nobody trained these here: the settings are the papers', and so are the scores that they should come to.  A step's cost follows
from the card: three times the multiply-adds of a forward pass for each crop.
"""

from typing import Any

from segmentarium.training import TrainingOptions

PICTURES = 1_281_167


def steps(epochs: float, batch_size: int) -> int:
    """Optimiser steps of so many epochs."""
    return round(epochs * PICTURES / batch_size)


def imagenet(model: str, *, epochs: float, batch_size: int, **changes: Any) -> TrainingOptions:
    """Crops of 8 to 100 % of a picture at 224 pixels, mirrored; evaluated every ten epochs on the middle 224 of 256 pixels.

    The batch is the effective one: give --micro-batch for what a device holds.
    """
    options = TrainingOptions(
        model=model,
        data="imagenet",
        root="imagenet",
        output=f"runs/imagenet/{model}",
        size=224,
        crop_ratio=224 / 256,
        max_steps=steps(epochs, batch_size),
        batch_size=batch_size,
        schedule="cosine",
        ema=0.0,
        val_every=steps(10, batch_size),
        save_every=steps(1, batch_size),
    )
    return options.replace(**changes)


def modern(model: str, *, warmup_epochs: float, **changes: Any) -> TrainingOptions:
    """DeiT's protocol, which Swin, ConvNeXt and CoC took over with small changes: 300 epochs of AdamW with everything that
    hides, mixes and drops; drop path is each network's own.  The rate is for a batch of 1024, and grows with it in proportion."""
    options = imagenet(
        model,
        epochs=300,
        batch_size=1024,
        optimizer="adamw",
        learning_rate=1e-3,
        weight_decay=0.05,
        warmup_steps=steps(warmup_epochs, 1024),
        rand_augment=2,
        magnitude=9,
        erase=0.25,
        mixup=0.8,
        cutmix=1.0,
        label_smoothing=0.1,
    )
    return options.replace(**changes)
