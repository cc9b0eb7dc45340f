"""ResNet-18, plain or with Diverse Branch Blocks, as the blocks' authors train both.

    segmentarium train --recipe recipes/classification/resnet.py --root DIR/imagenet
    segmentarium train --recipe recipes/classification/resnet.py --root DIR/imagenet --set dbb=true

Cost: 120 epochs, 154 million crops at 1.81 G multiply-adds forward: 8.4e17 in all.  With the blocks a step takes about twice as
long; the folded network is as fast as the plain one.
Expected (published, top-1): 69.54 plain, 70.99 with the blocks; ResNet-50 76.14 and 76.71.
"""

from imagenet import imagenet

from segmentarium.training import TrainingOptions


def recipe() -> TrainingOptions:
    return imagenet("resnet18", epochs=120, batch_size=256, learning_rate=0.1, weight_decay=1e-4)
