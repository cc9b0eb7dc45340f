"""CamVid from what `mae_here.py` learnt, against from scratch: equal steps, all else equal, for a processor.

    R=recipes/pretraining/camvid_here.py
    segmentarium train --recipe $R --seed 0 --output runs/pretraining/camvid/scratch-0
    segmentarium train --recipe $R --seed 0 --output runs/pretraining/camvid/mae-0 --backbone-weights runs/pretraining/mae

ViT-Ti/8 under Segmenter's linear head, on pictures of half the size (240×180).  `camvid_beit_here.py` is the same for BEiT.
"""

from typing import Any

from mae_here import ViT

from segmentarium.data.transforms import IMAGENET_MEAN, IMAGENET_STD  # MAE's, from scratch too
from segmentarium.training import TrainingOptions


def camvid(model_arguments: dict[str, Any], **changes: Any) -> TrainingOptions:
    """400 steps of 8 crops (9 passes); the backbone learns at the full rate, wherever it starts."""
    options = TrainingOptions(
        model="segmenter_small_linear",
        model_arguments=model_arguments,
        data="camvid",
        root="../shared/data/camvid",
        output="runs/pretraining/camvid/scratch",
        cache=True,
        scale=(0.75, 1.5),
        max_steps=400,
        batch_size=8,
        optimizer="adamw",
        learning_rate=5e-4,
        backbone_lr_factor=1.0,
        weight_decay=0.05,
        warmup_steps=40,
        clip_norm=5.0,
        ema=0.99,
        val_every=200,
        save_every=100,
        log_every=20,
    )
    return options.replace(**changes)


def recipe() -> TrainingOptions:
    inner = {**ViT["backbone_arguments"], "image_size": [120, 160]}
    return camvid(
        {**ViT, "backbone_arguments": inner}, crop_size=(120, 160), long_side=240, mean=IMAGENET_MEAN, std=IMAGENET_STD
    )
