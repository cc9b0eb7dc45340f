"""A small LV-ViT on the squares that `camvid_tiles.py` cuts out, with and without a label for every patch, for a processor.

segmentarium train --recipe recipes/pretraining/lvvit_here.py --token-labels runs/camvid_tiles/maps
segmentarium evaluate --model runs/tokens/lvvit/best.safetensors --data imagefolder --root runs/camvid_tiles --split test
"""

from segmentarium.training import TrainingOptions


def recipe() -> TrainingOptions:
    """400 steps of 32 squares, 96 pixels of each: 36 patches."""
    return TrainingOptions(
        model="lvvit_s",
        model_arguments={"embed_dim": 192, "depth": 6, "heads": 3, "stem": 16, "image_size": 96, "drop_path": 0.0},
        data="imagefolder",
        root="runs/camvid_tiles",
        output="runs/tokens/lvvit",
        cache=True,
        size=96,
        crop_ratio=1.0,
        area=(0.25, 1.0),
        label_smoothing=0.1,
        optimizer="adamw",
        learning_rate=1e-3,
        weight_decay=0.05,
        schedule="cosine",
        batch_size=32,
        max_steps=400,
        warmup_steps=40,
        ema=0.99,
        val_every=200,
        save_every=100,
        log_every=20,
    )
