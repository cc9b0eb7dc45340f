"""The shipped person model, first part: DeepLabV3+ on a quarter-width ResNet-18, 0.76 M parameters, EG1800 from scratch.

    segmentarium train --recipe recipes/person.py --root DIR/portrait
    segmentarium train --recipe recipes/person_finish.py --root DIR/portrait

Small pictures first, where a step costs half; the second part goes on at the size that the model is used at.  Half of the
crops have the person, or the background, of another picture laid over them.  Cost and result: docs/results.md.
"""

from segmentarium.training import TrainingOptions


def recipe() -> TrainingOptions:
    return TrainingOptions(
        model="deeplabv3plus",
        model_arguments={
            "backbone": "resnet18",
            "backbone_arguments": {"width": 16},
            "decoder_channels": 48,
            "low_channels": 24,
            "auxiliary": False,
        },
        data="portrait",
        root="../shared/data/portrait",
        train_split="trainval",
        output="runs/person",
        cache=True,
        long_side=224,
        crop_size=(224, 176),
        scale=(0.6, 1.5),
        rotate=15.0,
        class_mix=0.5,
        max_class_ratio=1.0,
        max_steps=6000,
        batch_size=32,
        optimizer="adamw",
        learning_rate=3e-3,
        weight_decay=0.05,
        warmup_steps=200,
        clip_norm=5.0,
        ema=0.999,
        val_every=1000,
        save_every=200,
    )
