"""RegSeg.  Published on CamVid test with Cityscapes pretraining: 80.9."""

from common import camvid

from segmentarium.training import TrainingOptions


def recipe() -> TrainingOptions:
    return camvid("regseg")
