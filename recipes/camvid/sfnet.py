"""SFNet with ResNet-18.  Published on CamVid test with ImageNet pretraining at 960×720: 73.8."""

from common import camvid

from segmentarium.training import TrainingOptions


def recipe() -> TrainingOptions:
    return camvid("sfnet_resnet18")
