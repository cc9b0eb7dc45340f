"""ShelfNet with ResNet-18.  The paper has no figure for CamVid."""

from common import camvid

from segmentarium.training import TrainingOptions


def recipe() -> TrainingOptions:
    return camvid("shelfnet18")
