"""DFANet A as in its paper.  Published on CamVid test with ImageNet pretraining at 960×720: 64.7."""

from common import camvid

from segmentarium.training import TrainingOptions


def recipe() -> TrainingOptions:
    return camvid("dfanet_a", learning_rate=2e-3)
