"""The shipped person model, first part: DeepLabV3+ on a quarter-width ResNet-18, 0.76 M parameters, EG1800 from scratch.

    segmentarium train --recipe recipes/person.py --root DIR/portrait
    segmentarium train --recipe recipes/person_finish.py --root DIR/portrait

Cost: about 25 minutes on two cores with AMX bf16.  Expected: 92.1 mean IoU on EG1800 test (264 photographs), and 92.7 after
the second part, see docs/results.md.
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
        output="runs/person",
        cache=True,
        long_side=288,
        crop_size=(288, 224),
        scale=(0.7, 1.4),
        max_class_ratio=1.0,
        max_steps=2400,
        batch_size=32,
        optimizer="adamw",
        learning_rate=3e-3,
        weight_decay=0.02,
        warmup_steps=100,
        clip_norm=5.0,
        ema=0.998,
        val_every=300,
        save_every=300,
    )
