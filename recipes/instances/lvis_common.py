"""What the LVIS recipes of this folder share: version 1, mmdetection's protocol.

    segmentarium train --recipe recipes/instances/NAME.py --root DIR/lvis
    segmentarium evaluate --model runs/lvis/NAME/last.safetensors --data lvis --root DIR/lvis --task instance

Nobody trained these here: the settings are the authors' or mmdetection's, and so are the scores that they should come to.
DIR/lvis holds annotations/lvis_v1_{train,val}.json and COCO's train2017/ and val2017/.  The batch is the effective one: give
--micro-batch for what a device holds.  The loop's rate falls by a power of the steps left, where theirs falls to a tenth twice.
Losses count the training data by themselves.
"""

from typing import Any

from segmentarium.training import TrainingOptions

PICTURES = 100_170
SCORES = {"score": 1e-4, "detections": 300}


def lvis(name: str, model: str = "mask_rcnn_resnet50", *, epochs: float = 12, **changes: Any) -> TrainingOptions:
    """SGD at 0.02 for 16 pictures, decay 1e-4 of norms and biases, too; whole pictures, whose longer side has 0.8 to 1.0 of 1333,
    mirrored: theirs have a shorter side of 640 to 800, and no longer one above 1333."""
    arguments = SCORES | changes.pop("model_arguments", {})
    options = TrainingOptions(
        model=model,
        model_arguments=arguments,
        backbone_weights="timm:resnet50.tv_in1k",
        data="lvis",
        root="lvis",
        output=f"runs/lvis/{name}",
        crop_size=(1344, 1344),
        long_side=1333,
        scale=(0.8, 1.0),
        photometric=False,
        max_steps=round(epochs * PICTURES / 16),
        batch_size=16,
        learning_rate=0.02,
        weight_decay=1e-4,
        decay_norm_bias=True,
        warmup_steps=500,
        clip_norm=35.0,
        backbone_lr_factor=1.0,
        ema=0.0,
        val_every=round(6 * PICTURES / 16),
        save_every=1000,
    )
    return options.replace(**changes)
