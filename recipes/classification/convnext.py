"""ConvNeXt-T, as its authors train it: batch 4096, averaged weights, warm-up of 20 epochs, drop path 0.1 (S 0.4, B and L 0.5).

    segmentarium train --recipe recipes/classification/convnext.py --root DIR/imagenet

Cost: 300 epochs, 384 million crops at 4.5 G multiply-adds forward: 5.2e18 in all.
Expected (published, top-1): T 82.1, S 83.1, B 83.8, L 84.3.
"""

from imagenet import modern, steps

from segmentarium.training import TrainingOptions


def recipe() -> TrainingOptions:
    return modern(
        "convnext_tiny",
        warmup_epochs=20,
        batch_size=4096,
        learning_rate=4e-3,
        max_steps=steps(300, 4096),
        warmup_steps=steps(20, 4096),
        val_every=steps(10, 4096),
        save_every=steps(1, 4096),
        ema=0.9999,
    )
