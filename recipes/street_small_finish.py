"""The shipped model street_small, second part: goes on from `street_small.py` at the size of the test.

    segmentarium train --recipe recipes/street_small_finish.py --root DIR/camvid

The last averaged weights are the result.  Cost and result: docs/results.md.
"""

from segmentarium.training import TrainingOptions


def recipe() -> TrainingOptions:
    return TrainingOptions(
        model="deeplabv3plus",
        weights="runs/street_small/last.safetensors",
        data="camvid",
        root="../shared/data/camvid",
        train_split="trainval",
        output="runs/street_small_finish",
        cache=True,
        # used at 640×480: on val (seen in training) 640 is better than 480 by 2.6 mIoU; crops are of 0.6 to 1.8 of 480×360
        long_side=640,
        crop_size=(352, 480),
        scale=(0.45, 1.35),
        class_mix=0.5,
        max_steps=4000,
        batch_size=8,
        optimizer="adamw",
        learning_rate=1.5e-3,
        backbone_lr_factor=1.0,
        weight_decay=0.05,
        warmup_steps=100,
        clip_norm=1.0,
        ema=0.998,
        # the first part leaves poles (1 % of the pixels, 2 to 5 wide) to whatever is behind them, on training pictures too:
        # Dice counts a class by its overlap, however small it is, and the weight of poles is doubled
        loss="cross_entropy+dice",
        class_weight="0.98,0.81,4.56,0.67,1.74,1.30,2.25,2.25,1.60,2.36,2.43",
        val_every=1500,
        save_every=100,
    )
