"""SwiftNet with ResNet-18, single scale.  Published on CamVid test from scratch: 63.3."""

from common import camvid

from segmentarium.training import TrainingOptions


def recipe() -> TrainingOptions:
    return camvid("swiftnet")
