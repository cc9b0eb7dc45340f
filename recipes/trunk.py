"""A half-width ResNet-18 of output stride 8 under a plain FCN head: the trunk on which `benchmarks.heads` compares decoders.

    segmentarium train --recipe recipes/trunk.py --root DIR/camvid

Twenty minutes of one core; short on purpose.  A trunk that knows its pictures by heart, as street_small does (87 mIoU
on them, 61 on the test), leaves decoders nothing to learn there.  CamVid's train + val, from scratch.
"""

from segmentarium.training import TrainingOptions


def recipe() -> TrainingOptions:
    return TrainingOptions(
        model="fcn",
        model_arguments={"backbone": "resnet18", "backbone_arguments": {"width": 32}, "output_stride": 8},
        data="camvid",
        root="../shared/data/camvid",
        train_split="trainval",
        val_split="test",
        output="runs/heads/trunk",
        cache=True,
        crop_size=(240, 320),
        scale=(0.5, 1.75),
        max_steps=1500,
        batch_size=8,
        optimizer="adamw",
        learning_rate=2e-3,
        weight_decay=0.05,
        warmup_steps=100,
        clip_norm=1.0,
        ema=0.995,
        class_weight="enet:1.1",
        val_every=1500,
        save_every=100,
        images_every=0,
    )
