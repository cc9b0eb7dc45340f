"""Fast-SCNN.  The paper has no figure for CamVid."""

from common import camvid

from segmentarium.training import TrainingOptions


def recipe() -> TrainingOptions:
    return camvid("fast_scnn", learning_rate=2e-3)
