"""Mask R-CNN R50 with equalisation loss v2, on LVIS v1.

    segmentarium train --recipe recipes/instances/lvis_eqlv2.py --root DIR/lvis

Expected (published, val): mask AP 23.7 (rare 14.9, common 22.8, frequent 28.6).
"""

from lvis_common import lvis

from segmentarium.training import TrainingOptions


def recipe() -> TrainingOptions:
    return lvis("eqlv2", model_arguments={"class_loss": "eqlv2"})
