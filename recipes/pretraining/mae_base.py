"""MAE as published (2111.06377, appendix A.1): ViT-B/16, three quarters hidden, 800 passes in batches of 4096.

    segmentarium pretrain --recipe recipes/pretraining/mae_base.py --data DIR/imagenet/train
    segmentarium train --recipe recipes/pretraining/mae_base_fine.py --root DIR/imagenet --backbone-weights runs/pretraining/mae

Expected: ImageNet top-1 83.6 after fine-tuning (1,600 passes), 67.8 of a linear probe; ADE20K 48.1 mIoU under UPerNet.
Cost: 250,000 steps; a picture costs 3 × 9.4 G multiply-adds (a quarter of the encoder, all of the decoder): 3e19 in all, some 60
hours of eight A100s.  --model mae_large is the paper's L (rate and passes as here).
"""

from imagenet import pretraining

from segmentarium.training import TrainingOptions


def recipe() -> TrainingOptions:
    """The rate is 1.5e-4 for 256 pictures; random boxes of a fifth to all of a picture, and mirrors, are all that is changed."""
    return pretraining(
        "mae", passes=800, warmup=40, batch_size=4096, learning_rate=1.5e-4 * 16, beta2=0.95, area=(0.2, 1.0)
    )
