"""CGNet M3N21.  Published on CamVid test, from scratch: 65.6."""

from common import camvid

from segmentarium.training import TrainingOptions


def recipe() -> TrainingOptions:
    return camvid("cgnet", learning_rate=2e-3)
