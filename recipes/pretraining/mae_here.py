"""MAE with ViT-Ti/8 on the folder that `pictures.py` makes: 96-pixel squares, 144 patches of which 36 are seen.

    python recipes/pretraining/pictures.py --data DIR --out runs/pictures
    segmentarium pretrain --recipe recipes/pretraining/mae_here.py

The score is "explained": what a prediction saves of the error of one who knows the mean of each patch (whose loss is about 1).
"""

from typing import Any

from segmentarium.training import TrainingOptions

ViT = {"backbone": "vit_tiny_patch16_224", "backbone_arguments": {"patch": 8}}


def here(model: str, **changes: Any) -> TrainingOptions:
    """What the recipes on these pictures share: 2,000 steps, 75 passes, for a processor."""
    options = TrainingOptions(
        model=model,
        data="pictures",
        root="runs/pictures",
        output=f"runs/pretraining/{model}",
        cache=True,
        area=(0.2, 1.0),
        max_steps=2000,
        batch_size=64,
        optimizer="adamw",
        learning_rate=1e-3,
        beta2=0.95,
        weight_decay=0.05,
        schedule="cosine",
        warmup_steps=200,
        ema=0.0,
        val_every=250,
        save_every=125,
        log_every=25,
    )
    return options.replace(**changes)


def recipe() -> TrainingOptions:
    decoder = {"decoder_dim": 128, "decoder_depth": 2, "decoder_heads": 4}
    return here("mae", model_arguments={**ViT, **decoder}, size=96)
