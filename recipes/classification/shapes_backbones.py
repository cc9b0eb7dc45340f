"""Three of the backbones of `cifar10_backbones.py` on drawn shapes, which never end: five kinds that differ much, at 64×64.

    segmentarium compare --recipes recipes/classification/shapes_backbones.py --out runs/shapes --engines eager

A convolution network, a cheaper one and a plain transformer; the same budget as on photographs.  500 of each kind are the test.
"""

from cifar10_backbones import recipes as on_photographs

from segmentarium.training import TrainingOptions

KINDS = ["lines", "ellipses", "checkerboard", "stripes", "cube"]
CHOSEN = ("resnet18", "mobilenet_v3_small", "vit_tiny_patch16_224")


def recipes() -> dict[str, TrainingOptions]:
    return {
        name: options.replace(
            data="shapes",
            data_arguments={"size": [64, 64], "kinds": KINDS},
            val_split="test",
            root="",
            cache=False,
            size=64,
        )
        for name, options in on_photographs().items()
        if name in CHOSEN
    }
