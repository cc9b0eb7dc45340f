"""The first stage of LVIS 2020's winners, and the teacher of what follows: HTC with equalisation loss, rare pictures repeated,
mosaics, rotation and scale jitter.

    segmentarium train --recipe recipes/instances/good_mask_first.py --root DIR/lvis
    segmentarium pseudo-label --model runs/lvis/good_mask_first/last.safetensors --data lvis --root DIR/lvis \\
        --out runs/lvis/pseudo --sure r=0.4,c=0.6,f=0.7 --likely r=0.2,c=0.3,f=0.3
    segmentarium train --recipe recipes/instances/good_mask_second.py

How much of each is not published: half of the pictures in mosaics, 10 degrees, scales of large scale jitter, and the thresholds
are ours.  Expected: nothing is published of this stage alone; HTC X101 had mask AP 29.28 on LVIS v0.5 in another paper.
"""

from lvis_common import lvis

from segmentarium.training import TrainingOptions

AUGMENTED = {
    "sampling": "repeat",
    "mosaic": 0.5,
    "rotate": 10.0,
    "crop_size": (1024, 1024),
    "scale": (0.1, 2.0),
    "even_scales": True,
}
FIRST = {"class_loss": "eql", "mask_levels": "scale", "mask_loss": "cross_entropy"}


def recipe() -> TrainingOptions:
    return lvis(
        "good_mask_first",
        "good_mask_resnet101",
        epochs=24,
        model_arguments=FIRST,
        backbone_weights="timm:resnet101.tv_in1k",
        **AUGMENTED,
    )
