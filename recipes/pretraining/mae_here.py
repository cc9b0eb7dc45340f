"""MAE with ViT-Ti/8 on the folder that `pictures.py` makes: 96-pixel squares, 144 patches of which 36 are seen.

    python recipes/pretraining/pictures.py --data DIR --out runs/pictures
    segmentarium pretrain --recipe recipes/pretraining/mae_here.py

The mean predictor's loss is 1 (a patch is foreseen less its mean, over its deviation).
"""

from segmentarium.training import TrainingOptions


def recipe() -> TrainingOptions:
    return TrainingOptions(
        model="mae",
        model_arguments={
            "backbone": "vit_tiny_patch16_224",
            "backbone_arguments": {"patch": 8},
            "decoder_dim": 128,
            "decoder_depth": 2,
            "decoder_heads": 4,
        },
        data="pictures",
        root="runs/pictures",
        output="runs/pretraining/mae",
        size=96,
        area=(0.2, 1.0),
        cache=True,
        max_steps=6000,
        batch_size=64,
        optimizer="adamw",
        learning_rate=1e-3,
        beta2=0.95,
        weight_decay=0.05,
        schedule="cosine",
        warmup_steps=300,
        ema=0.0,
        val_every=500,
        save_every=250,
        log_every=50,
    )
