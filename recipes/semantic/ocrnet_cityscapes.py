"""OCRNet on HRNet-W48 at Cityscapes, as its authors train it: SGD at 0.01, 484 epochs of 12 crops of 512×1024.

    segmentarium train --recipe recipes/semantic/ocrnet_cityscapes.py --root DIR/cityscapes --backbone-weights timm:NAME

Expected (published, val mIoU, one scale): 81.6.
"""

from common import convolutional

from segmentarium.training import TrainingOptions


def recipe() -> TrainingOptions:
    return convolutional(
        "ocrnet", "cityscapes", crop_size=(512, 1024), batch_size=12, max_steps=119_548, val_every=10_000
    )
