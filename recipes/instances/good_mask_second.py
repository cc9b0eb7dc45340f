"""Self-training and the second stage of LVIS 2020's winners; good_mask_first.py says what comes before.

    segmentarium train --recipe recipes/instances/good_mask_second.py

The first run learns from people's labels and the teacher's.  Then trunk, pyramid and proposals stay as they are; a new box
classifier is learned by balanced groups; masks are cut out by the share of the box that they fill, and learned balanced.
Expected (published, val, with a ResNeXt-101 and more than this): mask AP 41.5.
"""

from good_mask_first import AUGMENTED, FIRST
from lvis_common import lvis

from segmentarium.training import TrainingOptions

MODEL = "good_mask_resnet101"
KEPT = (
    "backbone",
    "decoder.pyramid",
    "decoder.rpn",
    "decoder.semantic",
    "decoder.boxes.*.layers",
    "decoder.boxes.*.deltas",
)


def recipe() -> list[TrainingOptions]:
    common = {"root": "runs/lvis/pseudo", "backbone_weights": None}
    second = {"class_loss": "bags", "mask_levels": "share", "mask_loss": "balanced"}
    return [
        lvis(
            "good_mask",
            MODEL,
            model_arguments=FIRST,
            weights="runs/lvis/good_mask_first/last.safetensors",
            **common,
            **AUGMENTED,
        ),
        lvis("good_mask", MODEL, model_arguments=second, freeze=KEPT, learning_rate=0.005, **common),
    ]
