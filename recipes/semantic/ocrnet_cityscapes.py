"""OCRNet on HRNet-W48 at Cityscapes, as its authors train it: SGD at 0.01, 484 epochs of 12 crops of 512×1024, classes weighted.

    segmentarium train --recipe recipes/semantic/ocrnet_cityscapes.py --root DIR/cityscapes --backbone-weights timm:NAME

Expected (published, val mIoU, one scale): 81.6.
"""

from common import convolutional

from segmentarium.training import TrainingOptions

# the authors', of all their networks on Cityscapes: how rare a class is, softened
CLASS_WEIGHT = (
    "0.8373,0.918,0.866,1.0345,1.0166,0.9969,0.9754,1.0489,0.8786,1.0023,"
    "0.9539,0.9843,1.1116,0.9037,1.0865,1.0955,1.0865,1.1529,1.0507"
)


def recipe() -> TrainingOptions:
    return convolutional(
        "ocrnet",
        "cityscapes",
        crop_size=(512, 1024),
        batch_size=12,
        max_steps=119_548,
        val_every=10_000,
        class_weight=CLASS_WEIGHT,
    )
