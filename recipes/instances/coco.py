"""Mask R-CNN, Cascade Mask R-CNN and HTC at COCO's objects, as mmdetection trains them: 12 or 20 epochs of 16 pictures.

    segmentarium compare --recipes recipes/instances/coco.py --root DIR/coco --out runs/coco-instances
    segmentarium train --recipe recipes/instances/coco.py --model htc_resnet50 --root DIR/coco …

Expected (published, val, box / mask AP): Mask R-CNN 38.2 / 34.7, Cascade Mask R-CNN 41.2 / 35.9 (12 epochs), HTC 43.3 / 38.3 (20
epochs, with COCO-Stuff's label maps, which the semantic branch does without here).  Pictures are brought to a longer side of
1333; theirs to a shorter side of 800 as well, where that is less.  The rate falls to a tenth after 8 and 11 epochs, or 16 and 19:
stages here.
"""

from segmentarium.training import TrainingOptions

EPOCH = 118_287 // 16 + 1  # steps


def published(model: str, epochs: tuple[int, int, int]) -> list[TrainingOptions]:
    """epochs: until the first fall, from there to the second, and from there to the end."""
    options = TrainingOptions(
        model=model,
        backbone_weights="timm:resnet50.tv_in1k",
        data="coco_instances",
        output=f"runs/coco/{model}",
        long_side=1333,
        crop_size=(1344, 1344),
        scale=(1.0, 1.0),
        photometric=False,
        batch_size=16,
        optimizer="sgd",
        learning_rate=0.02,
        backbone_lr_factor=1.0,
        weight_decay=1e-4,
        decay_norm_bias=True,
        clip_norm=35.0,
        schedule="constant",
        warmup_steps=500,
        ema=0.0,
        max_steps=1,
        val_every=EPOCH,
    )
    return [
        options.replace(max_steps=part * EPOCH, learning_rate=0.02 / 10**i, warmup_steps=0 if i else 500)
        for i, part in enumerate(epochs)
    ]


def recipes() -> dict[str, list[TrainingOptions]]:
    return {
        "mask_rcnn": published("mask_rcnn_resnet50", (8, 3, 1)),
        "cascade_mask_rcnn": published("cascade_mask_rcnn_resnet50", (8, 3, 1)),
        "htc": published("htc_resnet50", (16, 3, 1)),
    }
