"""The shipped street model: DeepLabV3+ on a half-width ResNet-18, 3.0 M parameters, trained from scratch on CamVid.

    segmentarium train --recipe recipes/street.py --root DIR/camvid

Trained on train + val (468 pictures), as most published CamVid figures are, so the scores on val printed on the way say
nothing; the last averaged weights are the result.  Cost: about 25 minutes on two cores with AMX bf16.  Expected: 49 mIoU on
CamVid test (480×360, 11 classes), see docs/results.md.
"""

from segmentarium.training import TrainingOptions


def recipe() -> TrainingOptions:
    return TrainingOptions(
        model="deeplabv3plus",
        model_arguments={
            "backbone": "resnet18",
            "backbone_arguments": {"width": 32},
            "decoder_channels": 96,
            "low_channels": 32,
            "auxiliary": False,
        },
        data="camvid",
        root="../shared/data/camvid",
        train_split="trainval",
        output="runs/street",
        cache=True,
        crop_size=(352, 480),
        scale=(0.75, 1.75),
        max_steps=2400,
        batch_size=8,
        optimizer="adamw",
        learning_rate=2e-3,
        weight_decay=0.02,
        warmup_steps=150,
        clip_norm=1.0,
        ema=0.998,
        # 1 / ln(1.1 + share): ENet's formula with a larger offset, so that rare classes weigh 3.6 times road, not 15
        class_weight="0.98,0.81,2.28,0.67,1.74,1.30,2.25,2.25,1.60,2.36,2.43",
        val_every=1000,
        save_every=100,
    )
