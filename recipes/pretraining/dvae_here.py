"""A small dVAE, 512 words, on the folder that `pictures.py` makes: what `beit_here.py` takes for its tokenizer.

    segmentarium pretrain --recipe recipes/pretraining/dvae_here.py

The scores: "explained", against each picture's mean colour; "blur error", of the picture shrunk to as many cells as it has words,
which "error" should be below; "perplexity", of how many equally frequent words the use of the vocabulary would be.
"""

from mae_here import here

from segmentarium.training import TrainingOptions


def recipe() -> TrainingOptions:
    return here(
        "dvae",
        model_arguments={"width": 32, "blocks": 1, "vocabulary": 512, "start": 64},
        size=64,
        batch_size=32,
        max_steps=3000,
        weight_decay=1e-4,
        beta2=0.999,
        ema=0.999,
    )
