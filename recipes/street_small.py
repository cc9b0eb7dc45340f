"""The shipped model street_small, first part: DeepLabV3+ on a half-width ResNet-18, 3.0 M parameters, CamVid from scratch.

    segmentarium train --recipe recipes/street_small.py --root DIR/camvid
    segmentarium train --recipe recipes/street_small_finish.py --root DIR/camvid

Trained on train + val (468 pictures), as most published CamVid figures are, so the scores on val printed on the way say
nothing; the last averaged weights are the result.  Small crops, because a step costs less than half and variety is what
468 pictures lack; the second part goes on at the size of the test.  Cost and result: docs/results.md.
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
        output="runs/street_small",
        cache=True,
        crop_size=(240, 320),
        scale=(0.5, 1.75),
        class_mix=0.5,
        max_steps=6000,
        batch_size=8,
        optimizer="adamw",
        learning_rate=2e-3,
        weight_decay=0.05,
        warmup_steps=200,
        clip_norm=1.0,
        ema=0.999,
        # 1 / ln(1.1 + share): ENet's formula with a larger offset, so that rare classes weigh 3.6 times road, not 15
        class_weight="0.98,0.81,2.28,0.67,1.74,1.30,2.25,2.25,1.60,2.36,2.43",
        val_every=2000,
        save_every=200,
    )
