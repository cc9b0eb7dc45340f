"""The shipped person model, first part: DeepLabV3+ on EfficientNet-Lite0's trunk, 0.75 M parameters, pretrained on ImageNet.

    segmentarium train --recipe recipes/person.py
    segmentarium train --recipe recipes/person_finish.py
    segmentarium train --recipe recipes/person_tune.py
    segmentarium train --recipe recipes/person_long.py
    segmentarium train --recipe recipes/person_last.py

Data and starting weights: `person_data.py`.  Small pictures first, where a step costs half; the other parts go on at the size
that the model is used at.  Four of ten crops have the person, or the background, of another picture laid over them.  Cost and
result: docs/results.md.
"""

from typing import Any

from segmentarium.training import TrainingOptions

MODEL = {
    "name": "deeplabv3plus",
    "backbone": "efficientnet_lite0",
    "backbone_arguments": {"out_indices": (1, 2, 3)},  # 1/4, 1/8, 1/16
    "decoder_channels": 48,
    "low_channels": 24,
    "auxiliary": False,
}


def person(**changes: Any) -> TrainingOptions:
    """What all parts share."""
    options = TrainingOptions(
        model="deeplabv3plus",
        data="folder",
        root="runs/person_data",
        cache=True,
        max_class_ratio=1.0,
        batch_size=24,
        optimizer="adamw",
        weight_decay=0.05,
        clip_norm=5.0,
        compile=True,
        loss="cross_entropy+0.5*dice",
    )
    return options.replace(**changes)


def recipe() -> TrainingOptions:
    return person(
        weights="runs/person_data/start.safetensors",
        mean=(127 / 255,) * 3,
        std=(128 / 255,) * 3,
        output="runs/person",
        long_side=256,
        crop_size=(224, 160),
        scale=(0.6, 1.5),
        rotate=15.0,
        class_mix=0.4,
        max_steps=3000,
        learning_rate=2e-3,
        backbone_lr_factor=0.4,
        warmup_steps=200,
        ema=0.998,
        val_every=1000,
        save_every=200,
    )
