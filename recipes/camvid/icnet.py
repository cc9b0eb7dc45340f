"""ICNet.  Published on CamVid test with ImageNet pretraining at 960×720: 67.1."""

from common import camvid

from segmentarium.training import TrainingOptions


def recipe() -> TrainingOptions:
    return camvid("icnet")
