"""Context Cluster tiny, as its authors train it: warm-up of 5 epochs, drop path 0.1, evaluated on 90 % of the shorter side.

    segmentarium train --recipe recipes/classification/coc.py --root DIR/imagenet
    segmentarium train --recipe recipes/classification/coc.py --root DIR/imagenet --model coc_medium --crop-ratio 0.95

Cost: 300 epochs, 384 million crops at 1.1 G multiply-adds forward: 1.3e18 in all.
Expected (published, top-1): tiny 73.2, tiny plain 73.8, small 78.1, medium 81.2.
"""

from imagenet import modern

from segmentarium.training import TrainingOptions


def recipe() -> TrainingOptions:
    return modern("coc_tiny", warmup_epochs=5, crop_ratio=0.9)
