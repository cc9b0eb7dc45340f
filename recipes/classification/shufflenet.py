"""ShuffleNet V1 (groups 3) and V2, as their authors train both: 300,000 steps, the rate falling in a straight line to zero.

    segmentarium train --recipe recipes/classification/shufflenet.py --root DIR/imagenet
    segmentarium train --recipe recipes/classification/shufflenet.py --root DIR/imagenet --model shufflenet_v2

Pictures go in as 0 to 255, as the authors' do (theirs blue first, which is nothing to a network that starts anew).
Cost: 240 epochs, 307 million crops at 0.14 G multiply-adds forward: 1.3e17 in all.
Expected (published, top-1): V1 1× 67.8 (groups 3) and 68.0 (groups 8), V2 1× 69.4.
"""

from imagenet import PICTURES, imagenet

from segmentarium.training import TrainingOptions

BATCH, STEPS = 1024, 300_000


def recipe() -> TrainingOptions:
    return imagenet(
        "shufflenet_v1",
        epochs=STEPS * BATCH / PICTURES,
        batch_size=BATCH,
        mean=(0.0, 0.0, 0.0),
        std=(1 / 255, 1 / 255, 1 / 255),
        learning_rate=0.5,
        weight_decay=4e-5,
        schedule="poly",
        power=1.0,
        label_smoothing=0.1,
        jitter=0.4,
    )
