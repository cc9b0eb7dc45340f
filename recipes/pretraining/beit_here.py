"""BEiT of ViT-Ti's size on the folder that `pictures.py` makes: 128-pixel squares, 64 patches of which about 24 are hidden.

    segmentarium pretrain --recipe recipes/pretraining/dvae_here.py
    segmentarium pretrain --recipe recipes/pretraining/beit_here.py

"accuracy" at hidden patches is to be held against "trivial accuracy", that of the most frequent word, and "loss" against
"trivial loss".
"""

from mae_here import here

from segmentarium.training import TrainingOptions

BEIT = {"backbone": "beit_b", "backbone_arguments": {"embed_dim": 192, "depth": 12, "heads": 3}}


def recipe() -> TrainingOptions:
    return here(
        "beit_mim",
        model_arguments=BEIT,
        size=128,
        tokenizer="runs/pretraining/dvae",
        jitter=0.4,
        beta2=0.999,
        clip_norm=3.0,
    )
