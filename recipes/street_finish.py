"""The shipped street model, second part: goes on from `street.py` at the size of the test.

    segmentarium train --recipe recipes/street_finish.py --root DIR/camvid

The last averaged weights are the result.  Cost and result: docs/results.md.
"""

from segmentarium.training import TrainingOptions


def recipe() -> TrainingOptions:
    return TrainingOptions(
        model="deeplabv3plus",
        weights="runs/street/last.safetensors",
        data="camvid",
        root="../shared/data/camvid",
        train_split="trainval",
        output="runs/street_finish",
        cache=True,
        crop_size=(352, 480),
        scale=(0.75, 1.6),
        class_mix=0.3,
        max_steps=1500,
        batch_size=8,
        optimizer="adamw",
        learning_rate=8e-4,
        backbone_lr_factor=1.0,
        weight_decay=0.05,
        warmup_steps=50,
        clip_norm=1.0,
        ema=0.998,
        # 1 / ln(1.1 + share), as in the first part
        class_weight="0.98,0.81,2.28,0.67,1.74,1.30,2.25,2.25,1.60,2.36,2.43",
        val_every=1500,
        save_every=100,
    )
