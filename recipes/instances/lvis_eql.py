"""Mask R-CNN R50 with equalisation loss, on LVIS v1.

    segmentarium train --recipe recipes/instances/lvis_eql.py --root DIR/lvis

Expected (published, val): mask AP 18.6 (rare 2.1, common 17.4, frequent 27.2).
"""

from lvis_common import lvis

from segmentarium.training import TrainingOptions


def recipe() -> TrainingOptions:
    return lvis("eql", model_arguments={"class_loss": "eql"})
