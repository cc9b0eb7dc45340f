"""FCN on a half-width ResNet-18, plain and with Diverse Branch Blocks in place of its convolutions, on CamVid from scratch.

    segmentarium compare --recipes recipes/dbb.py --root DIR/camvid --out runs/dbb
    segmentarium compare --recipes recipes/dbb.py --root DIR/camvid --out runs/dbb-1 --seed 1

The blocks cost two to three times as much in training and fold into the plain network: the latency of `deploy` must be the
plain one's (parameters and multiply-adds are counted as they are trained).  400 steps of 8 crops of 192×256, about five minutes
of a core for the plain one.
"""

from segmentarium.training import TrainingOptions


def recipes() -> dict[str, TrainingOptions]:
    plain = {"backbone": "resnet18", "backbone_arguments": {"width": 32}, "output_stride": 16}
    return {
        name: TrainingOptions(
            model="fcn",
            model_arguments={**plain, **more},
            data="camvid",
            root="../shared/data/camvid",
            train_split="trainval",
            val_split="test",
            cache=True,
            crop_size=(192, 256),
            scale=(0.5, 1.75),
            max_steps=400,
            batch_size=8,
            optimizer="adamw",
            learning_rate=2e-3,
            weight_decay=0.01,
            warmup_steps=100,
            clip_norm=1.0,
            ema=0.99,
            class_weight="enet:1.1",
            val_every=400,
            save_every=100,
            images_every=0,
        )
        for name, more in (("plain", {}), ("blocks", {"dbb": True}))
    }
