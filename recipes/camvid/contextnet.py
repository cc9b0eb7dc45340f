"""ContextNet cn14.  The paper has no figure for CamVid."""

from common import camvid

from segmentarium.training import TrainingOptions


def recipe() -> TrainingOptions:
    return camvid("contextnet", learning_rate=2e-3)
