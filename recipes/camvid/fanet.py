"""FANet-18.  Published on CamVid test with ImageNet pretraining: 69.0."""

from common import camvid

from segmentarium.training import TrainingOptions


def recipe() -> TrainingOptions:
    return camvid("fanet18")
