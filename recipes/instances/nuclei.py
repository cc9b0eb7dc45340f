"""Nuclei of cells told apart: HTC on a half-width ResNet-18, from the trunk of street_small.

    segmentarium train --recipe recipes/instances/nuclei.py --root DIR/nuclei
    segmentarium evaluate --model runs/nuclei-htc/best.safetensors --data instances --root DIR/nuclei --task instance

The pictures are dark, so they are normalised by what they hold and not by what photographs do.  Most nuclei are 13 pixels wide:
the pictures are enlarged by a half, and anchors are half as large as for photographs.  Mask heads of half the usual width take a
third of what the others would, which is most of a step.
"""

from segmentarium.training import TrainingOptions


def recipe() -> TrainingOptions:
    return TrainingOptions(
        model="htc_resnet18",
        model_arguments={
            "backbone_arguments": {"width": 32},
            "width": 64,
            "hidden": 256,
            "mask_width": 32,
            "mask_convs": 2,
            "anchor_scale": 4.0,
            "proposals": [300, 200],
            "sampled": 48,
            "detections": 150,
            "frozen_norms": False,
        },
        backbone_weights="street_small",
        data="instances",
        root="../shared/data/nuclei",
        mean=(0.08,) * 3,
        std=(0.12,) * 3,
        output="runs/nuclei-htc",
        cache=True,
        long_side=384,
        crop_size=(192, 192),
        scale=(0.75, 1.4),
        batch_size=4,
        optimizer="adamw",
        learning_rate=1e-3,
        backbone_lr_factor=1.0,
        weight_decay=0.01,
        warmup_steps=60,
        clip_norm=10.0,
        ema=0.99,
        max_steps=600,
        val_every=300,
        save_every=50,
        workers=1,
        precision="32",
    )
