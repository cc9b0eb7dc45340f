"""DALL-E's dVAE as published (2102.12092, appendix A.2): 8192 words, 3 million steps of 512 pictures.

    segmentarium pretrain --recipe recipes/pretraining/dvae_base.py --data FOLDER_OF_PICTURES

The authors' 250 million pictures are not public, and the length of their cosine is 1.2 million steps (from 1e-4 to 1.25e-6); here
the rate falls to 0 over all steps.  Weight of the words' term and temperature follow the paper's schedules (`at_step`).
Expected: no score was published; the words serve BEiT.
"""

from imagenet import pretraining

from segmentarium.training import TrainingOptions


def recipe() -> TrainingOptions:
    return pretraining(
        "dvae",
        passes=1,
        warmup=0,
        batch_size=512,
        size=256,
        learning_rate=1e-4,
        weight_decay=1e-4,
        ema=0.999,
        max_steps=3_000_000,
        val_every=10_000,
        save_every=1_000,
    )
