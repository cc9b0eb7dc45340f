"""BiSeNet with ResNet-18.  Published on CamVid test with ImageNet pretraining at 960×720: 68.7 (Xception-39: 65.6)."""

from common import camvid

from segmentarium.training import TrainingOptions


def recipe() -> TrainingOptions:
    return camvid("bisenet_resnet18")
