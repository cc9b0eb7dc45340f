"""Nuclei of cells told apart: Mask2Former on a half-width ResNet-18, 5 M parameters, from the trunk of street_small.

    segmentarium train --recipe recipes/masks/nuclei.py --root DIR/nuclei

The pictures are dark, half of them nowhere brighter than a third, so they are normalised by what they hold and not by what
photographs do; and they are enlarged, as most nuclei are less than 13 pixels wide and masks have a quarter of the side.  The
first stage sees a quarter of a picture at a time, with a handful of nuclei, and learns several times as fast to tell them apart;
the second sees all of it, and takes most of the time.
"""

from segmentarium.training import TrainingOptions


def recipe() -> list[TrainingOptions]:
    apart = TrainingOptions(
        model="mask2former_resnet50",
        model_arguments={
            "backbone": "resnet18",
            "backbone_arguments": {"width": 32},
            "width": 128,
            "mask_channels": 128,
            "queries": 100,
            "layers": 3,
            "encoder_layers": 2,
            "hidden": 512,
            "encoder_hidden": 256,
            "drawn": 1568,
            "oversample": 2.0,
        },
        backbone_weights="street_small",
        data="instances",
        root="../shared/data/nuclei",
        mean=(0.08,) * 3,
        std=(0.12,) * 3,
        output="runs/nuclei",
        cache=True,
        long_side=320,
        crop_size=(160, 160),
        scale=(0.8, 1.5),
        batch_size=8,
        optimizer="adamw",
        learning_rate=1e-3,
        backbone_lr_factor=1.0,
        weight_decay=0.05,
        warmup_steps=50,
        clip_norm=1.0,
        ema=0.998,
        max_steps=900,
        val_every=450,
        save_every=100,
        workers=1,
    )
    whole = apart.replace(
        backbone_weights=None,
        # of the quarters' 1,568 points three would fall into a small nucleus: here every pixel of the masks is one
        model_arguments=apart.model_arguments | {"drawn": 6272},
        crop_size=(320, 320),
        scale=(1.0, 1.4),
        batch_size=4,
        learning_rate=6e-4,
        max_steps=2300,
        val_every=460,
    )
    return [apart, whole]
