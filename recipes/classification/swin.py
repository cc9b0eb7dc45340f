"""Swin-T, as its authors train it: warm-up of 20 epochs, gradients clipped at 5, drop path 0.2 (S 0.3, B 0.5).

    segmentarium train --recipe recipes/classification/swin.py --root DIR/imagenet

Cost: 300 epochs, 384 million crops at 4.5 G multiply-adds forward: 5.2e18 in all.
Expected (published, top-1): T 81.3, S 83.0, B 83.5.
"""

from imagenet import modern

from segmentarium.training import TrainingOptions


def recipe() -> TrainingOptions:
    return modern("swin_t", warmup_epochs=20, clip_norm=5.0, crop_ratio=0.9)
