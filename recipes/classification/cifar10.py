"""Ten classes of small photographs, from nothing, on a processor: a quarter-width ResNet-18 on a fifth of CIFAR-10.

    unzip -q -d runs/cifar10_small ../shared/data/cifar10_small/train.zip
    unzip -q -d runs/cifar10_small ../shared/data/cifar10_small/test.zip
    segmentarium train --recipe recipes/classification/cifar10.py
    segmentarium evaluate --model runs/cifar10/best.safetensors --data imagefolder --root runs/cifar10_small

Pictures of 32 pixels are shown at 64, since the network divides sides by 32.  A tenth of train, by hash, is val; test is left for
the end.
"""

from segmentarium.training import TrainingOptions


def recipe() -> TrainingOptions:
    return TrainingOptions(
        model="resnet18",
        model_arguments={"width": 16},
        data="imagefolder",
        root="runs/cifar10_small",
        output="runs/cifar10",
        cache=True,
        size=64,
        crop_ratio=1.0,
        max_steps=1200,
        batch_size=64,
        optimizer="adamw",
        learning_rate=4e-3,
        weight_decay=0.05,
        schedule="cosine",
        warmup_steps=100,
        label_smoothing=0.1,
        ema=0.995,
        val_every=300,
        save_every=300,
    )
