"""UPerNet on ConvNeXt-T at ADE20K, as ConvNeXt's authors train it: AdamW at 1e-4, decay 0.05, 0.9 of the rate from layer to
layer, batch 16, 160,000 steps of 512×512.

    segmentarium train --recipe recipes/semantic/upernet_convnext_ade20k.py --root DIR/ADE20K --backbone-weights timm:NAME

Expected (published, val mIoU, one scale): upernet_convnext_tiny 46.11, small 48.56, base 48.71.
"""

from common import transformer

from segmentarium.training import TrainingOptions


def recipe() -> TrainingOptions:
    return transformer(
        "upernet_convnext_tiny",
        "ade20k",
        learning_rate=1e-4,
        weight_decay=0.05,
        layer_decay=0.9,
    )
