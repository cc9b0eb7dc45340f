"""Outlines of nuclei by points: PointRend, and its coarse head alone, on the same trunk and under the same budget.

    segmentarium compare --recipes recipes/masks/nuclei_points.py --root DIR/nuclei --out runs/nuclei-points
    python -m benchmarks.components --model runs/nuclei-points/candidates/pointrend/training --data instances --root DIR/nuclei

Two classes, background and nucleus; the page has mIoU and boundary IoU of both, the second command AP50 and PQ of what hangs
together, beside which a mask classifier stands (`nuclei.py`).
"""

from typing import Any

from segmentarium.training import TrainingOptions


def recipes() -> dict[str, TrainingOptions]:
    arguments: dict[str, Any] = {"backbone": "resnet18", "backbone_arguments": {"width": 32}, "pyramid_channels": 128}
    points = {**arguments, "width": 64, "point_width": 128, "points": 1024, "step_points": 4096}
    shared = TrainingOptions(
        backbone_weights="street_small",
        data="instances",
        root="../shared/data/nuclei",
        mean=(0.08,) * 3,
        std=(0.12,) * 3,
        cache=True,
        crop_size=(192, 192),
        scale=(0.75, 1.4),
        batch_size=8,
        optimizer="adamw",
        learning_rate=1e-3,
        backbone_lr_factor=1.0,
        weight_decay=0.01,
        warmup_steps=60,
        clip_norm=5.0,
        ema=0.99,
        max_steps=600,
        val_every=300,
        save_every=50,
        workers=1,
    )
    return {
        "pointrend": shared.replace(
            model="pointrend_resnet50", model_arguments=points, output="runs/nuclei-points/pointrend"
        ),
        "coarse": shared.replace(
            model="fpn_resnet50",
            model_arguments={**arguments, "decoder_channels": 64},
            output="runs/nuclei-points/coarse",
        ),
    }
