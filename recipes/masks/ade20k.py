"""MaskFormer and Mask2Former at ADE20K's 150 classes, as their authors train them: 512×512, batch 16, 160,000 steps.

    segmentarium compare --recipes recipes/masks/ade20k.py --root DIR/ADEChallengeData2016 --out runs/ade20k_masks
    segmentarium train --recipe recipes/masks/ade20k.py --root DIR/ADEChallengeData2016 --model mask2former_swin_tiny …

Expected (published, val mIoU, one scale), with the backbone's ImageNet weights (--backbone-weights timm:NAME): MaskFormer 44.5
(ResNet-50), 46.7 (Swin-T); Mask2Former 47.2 (ResNet-50), 47.7 (Swin-T).  Cost: 71e9 multiply-adds a crop and forward pass of
Mask2Former on ResNet-50, so 5.5e17 in all.
"""

from typing import Any

from common import published

from segmentarium.training import TrainingOptions

ADE20K: dict[str, Any] = {"crop_size": (512, 512), "max_steps": 160_000, "val_every": 16_000, "task": "semantic"}


def recipes() -> dict[str, TrainingOptions]:
    return {
        "maskformer": published("maskformer_resnet50", "ade20k", weight_decay=1e-4, **ADE20K),
        "mask2former": published("mask2former_resnet50", "ade20k", **ADE20K),
    }
