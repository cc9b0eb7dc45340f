"""BEiT as published (2106.08254, section 3.1): 75 of 196 patches hidden in blocks, 800 passes in batches of 2048.

    segmentarium pretrain --recipe recipes/pretraining/beit_base.py --data DIR/imagenet/train --tokenizer encoder.pkl

The tokenizer is DALL-E's encoder, as published, or a dvae trained here.
Expected (the paper, on ImageNet-1k alone): ImageNet top-1 83.2 after fine-tuning (layer decay 0.65); ADE20K 45.6 mIoU under
UPerNet, 47.7 after ImageNet's labels.
Cost: 500,000 steps; a picture costs 3 × 17.6 G multiply-adds, and what the tokenizer's encoder does at 112 pixels.
"""

from imagenet import pretraining

from segmentarium.training import TrainingOptions


def recipe() -> TrainingOptions:
    """The picture is shown at 224 pixels, and the same box at 112 to the tokenizer; colours change by 0.4 before."""
    return pretraining(
        "beit_mim",
        passes=800,
        warmup=10,
        batch_size=2048,
        learning_rate=1.5e-3,
        clip_norm=3.0,
        jitter=0.4,
        area=(0.08, 1.0),
        model_arguments={"backbone_arguments": {"drop_path": 0.1}},
    )
